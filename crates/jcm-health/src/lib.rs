//! jcm-health
