//! Receivers are asked whether they want callbacks, before the first is registered for them.

mod asking;
mod registering;
