//! Commands on standard input.

use s3s::StdError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};

use crate::fault::Fault;
use crate::state::{Capacity, State};

/// Command of a test.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    /// Switches a fault on.
    Fault(Fault),
    /// Limits the bytes that can be written.
    Limit(Capacity),
    /// Switches all faults off.
    Clear,
    /// Answers with the requests so far.
    Log,
    /// Forgets the requests so far.
    Reset,
}

/// Obeys commands until standard input ends. A command that is none is an error of the test, and ends the
/// server.
pub async fn obey(state: &State) -> Result<(), StdError> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = obey_one(state, serde_json::from_str(&line)?)?;
        stdout().write_all(format!("{answer}\n").as_bytes()).await?;
        stdout().flush().await?;
    }
    Ok(())
}

fn obey_one(state: &State, command: Command) -> Result<Value, StdError> {
    match command {
        Command::Fault(fault) => state.add(fault),
        Command::Limit(capacity) => state.limit(capacity),
        Command::Clear => state.clear(),
        Command::Log => return Ok(state.log().iter().map(|entry| entry.to_json()).collect()),
        Command::Reset => state.reset(),
    }
    Ok(json!("done"))
}
