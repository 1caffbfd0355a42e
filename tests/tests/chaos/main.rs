//! Several servers, a real ZooKeeper and real faults: one test a row of the fault matrix.

mod harness;
