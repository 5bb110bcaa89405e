//! The child's side: reads its orders and does its task.

use std::process::ExitCode;

use super::{Orders, Status, Task, serve, spawn, worker};

/// Runs a hidden command such as `sigstorm worker` with its one argument.
pub fn main(orders: &str) -> ExitCode {
    let orders: Orders = match serde_json::from_str(orders) {
        Ok(orders) => orders,
        Err(error) => return broken(&format!("these orders make no sense: {error}")),
    };
    if let Err(error) = spawn::begin(orders.parent) {
        return broken(&format!("cannot bind this process to its parent: {error}"));
    }
    match orders.task {
        Task::Worker(options) => worker::run(options).into(),
        Task::Runner(options) => serve::serve(&options).into(),
        Task::Stormer(options) => {
            if !options.cores.is_empty()
                && let Err(error) = sigstorm_inject::confine(&options.cores)
            {
                return broken(&format!("cannot keep to the cores {:?}: {error}", options.cores));
            }
            crate::storm::run(options)
        }
        Task::Sweeper(options) => crate::mutants::sweeper::run(&options).into(),
    }
}

fn broken(message: &str) -> ExitCode {
    eprintln!("{message}");
    Status::Broken.into()
}
