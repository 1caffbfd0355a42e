//! jcm-storage
