//! jcm-subscriber
