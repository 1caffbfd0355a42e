//! jcm-proto
