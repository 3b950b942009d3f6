//! Other programs, asked a question.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A program that does not answer by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the program prints. It gets no input.
///
/// # Errors
/// Why there is no answer, as text: it cannot be started, it fails (what it says on standard error), it takes too long.
pub fn ask(command: &mut Command) -> Result<String, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("does not start: {error}"))?;
    let (done, over) = mpsc::channel();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || read(err));
        let said = (read(out), errors.join().unwrap_or_default());
        // There is no receiver any more if it took too long.
        let _ = done.send(said);
    });
    let said = over.recv_timeout(PATIENCE);
    let ended = if said.is_ok() { child.wait() } else { kill(&mut child) };
    let (out, err) = said.map_err(|_| format!("does not answer within {} s", PATIENCE.as_secs()))?;
    match ended {
        Ok(status) if status.success() => Ok(out),
        Ok(status) => {
            let last = err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
            Err(if last.is_empty() { format!("fails ({status})") } else { last.to_owned() })
        }
        Err(error) => Err(format!("cannot be waited for: {error}")),
    }
}

fn kill(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    child.kill()?;
    child.wait()
}

fn read(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
