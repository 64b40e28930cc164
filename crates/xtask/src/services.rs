//! Private servers for tests and measurements: PostgreSQL and the SeaweedFS S3 server.
//!
//! They listen on free ports of the loopback interface, keep their data under a directory of the caller's, and
//! end with the thread that started them. They can be stopped, killed outright and brought up again on the
//! same port with the same data.

mod account;
mod cluster;
mod port;
mod postgres;
mod seaweed;

pub use cluster::{Cluster, ClusterOptions, Doors};
pub use port::free_ports;
pub use postgres::{Postgres, PostgresOptions};
pub use seaweed::{
    ADMIN_KEY, ADMIN_SECRET, GUEST_KEY, GUEST_KEY_NEXT, GUEST_SECRET, GUEST_SECRET_NEXT, READER_KEY,
    READER_SECRET, Seaweed,
};
