//! x
pub mod callback;
pub mod clock;
pub mod courier;
pub mod graph;
pub mod lane;
pub mod operation;
pub mod tls;
