//! Scripts with public Python packages, which `tests/run` installs.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Runs a script of `tests/python` with one input line for each element of `input`. Returns the lines that it
/// prints.
pub(crate) fn python(script: &str, input: &[Value]) -> Vec<Value> {
    let packages = std::env::var("PYTHON_PACKAGES").expect("PYTHON_PACKAGES: their folder");
    let mut python = Command::new("python3");
    python.arg(format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR")));
    python.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let lines: Vec<_> = input.iter().map(Value::to_string).collect();
    python.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
