//! Several servers, a real ZooKeeper and real faults: one test a row of the fault matrix.
//!
//! `scripts/chaos` runs them one at a time and shows their results as a table.

mod harness;

mod bare;
#[path = "../suite/keeper.rs"]
#[expect(dead_code, reason = "the suite does more with it")]
mod keeper;
mod load;
mod lookout;
mod programs;
mod row;
mod scene;
mod turns;

mod rows {
    mod answers;
    mod disk;
    mod flapping;
    mod leases;
    mod network;
    mod nodes;
    mod push;
    mod registrations;
    mod servers;
    mod store;
    mod strain;
    mod subscribers;
    mod wires;
    mod writes;
}
