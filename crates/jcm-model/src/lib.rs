//! jcm-model
