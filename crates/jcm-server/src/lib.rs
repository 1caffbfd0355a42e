//! jcm-server
