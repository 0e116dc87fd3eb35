//! `fanfare load`: arguments to a test, a test to a report, a report to an exit code.

#![allow(clippy::print_stdout, reason = "a command prints")]

use std::io::{BufReader, IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;

use super::UsageError;
use crate::io::limits::raise_descriptor_limit;
use crate::load::args::LoadArgs;
use crate::load::conductor::{Display, conduct};
use crate::load::plan::Plan;
use crate::load::report::Report;
use crate::load::summary::summary;
use crate::load::tally::Snapshot;
use crate::load::timeline::Timeline;

/// Runs the load test.
pub(super) fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let descriptors_max = raise_descriptor_limit().context("can't raise the limit on descriptors")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
    if args.worker {
        crate::load::work(BufReader::new(stdin()), &mut stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let planned = Plan::new(args).and_then(|plan| plan.check_descriptors(descriptors_max).map(|()| plan));
    let plan = planned.map_err(|error| UsageError(format!("{error:#}")))?;
    let outcome = conduct(&plan, &mut Plain, &interrupted)?;
    let report = Report::new(&plan, &outcome);
    if let Some(file) = &args.reporting.json {
        let text = serde_json::to_string_pretty(&report.figures)?;
        std::fs::write(file, text + "\n").with_context(|| format!("can't write {}", file.display()))?;
    }
    for line in summary(&report, stdout().is_terminal()) {
        println!("{line}");
    }
    Ok(if report.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Plain;
impl Display for Plain {
    fn line(&mut self, line: &str) {
        println!("{line}");
    }
    fn progress(&mut self, _: &str, _: u32, _: &Snapshot, _: &Timeline) {}
}
