//! `fanfare load`: turns arguments into a test, the test into a report, and the report into an exit code.

use std::fs::File;
use std::io::{BufReader, IsTerminal, Write, stderr, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use signal_hook::consts::SIGINT;

use super::UsageError;
use super::redis::redis_address;
use crate::io::limits::raise_descriptor_limit;
use crate::load::args::{LoadArgs, PublishArgs, ReportArgs};
use crate::load::ask::ask;
use crate::load::baseline::Baseline;
use crate::load::circumstances::Circumstances;
use crate::load::conductor::{Outcome, conduct};
use crate::load::page::page;
use crate::load::plan::Plan;
use crate::load::report::Report;
use crate::load::summary::{missed_lines, summary};
use crate::load::terminal::{Output, Style, Terminal};

/// The exit code after SIGINT, as shells compute it.
const INTERRUPTED_EXIT_CODE: u8 = 128 + SIGINT as u8;

/// Runs the load test.
pub(super) fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let descriptors_max = raise_descriptor_limit().context("can't raise the limit on descriptors")?;
    let interrupted = Arc::new(AtomicBool::new(false));
    // The first SIGINT ends the test with a report; the second finds the flag set, and ends the process.
    let exit_code = i32::from(INTERRUPTED_EXIT_CODE);
    signal_hook::flag::register_conditional_shutdown(SIGINT, exit_code, Arc::clone(&interrupted))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
    if args.worker {
        crate::load::work(BufReader::new(stdin()), &mut stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let args = if args.urls.is_empty() && stdin().is_terminal() && stderr().is_terminal() {
        ask(args, &mut stdin().lock(), &mut stderr()).map_err(|error| UsageError(format!("{error:#}")))?
    } else {
        args.clone()
    };
    let plan = plan(&args, descriptors_max).map_err(|error| UsageError(format!("{error:#}")))?;
    // Before the files are made: --json may replace it.
    let baseline = baseline(&args.reporting, &plan).map_err(|error| UsageError(format!("{error:#}")))?;
    let circumstances = Circumstances::now(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()));
    let mut files = Files::create(&args.reporting)?;
    let output = if files.takes_stdout { Output::Stderr } else { Output::Stdout };
    let mut terminal = Terminal::new(style(&args), output);
    let outcome = conduct(&plan, &mut terminal, &interrupted)?;
    terminal.clear();
    let mut report = Report::new(&plan, &outcome, &circumstances);
    if let Some(baseline) = &baseline {
        report.compare(baseline);
    }
    files.write(&report, &outcome)?;
    let lines = match args.quiet {
        true => missed_lines(&report, output.is_coloured()),
        false => summary(&report, output.is_coloured()),
    };
    output.write(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(match outcome.interruption {
        Some(_) => ExitCode::from(INTERRUPTED_EXIT_CODE),
        None if report.has_passed() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn plan(args: &LoadArgs, descriptors_max: u64) -> anyhow::Result<Plan> {
    let PublishArgs { redis_url, redis_password_file, .. } = &args.publishing;
    let redis = redis_url.as_ref().map(|url| redis_address(url, redis_password_file.as_deref())).transpose()?;
    let plan = Plan::new(args, redis)?;
    plan.check_descriptors(descriptors_max)?;
    Ok(plan)
}

/// The earlier run to compare with, which has to be of the same kind.
fn baseline(args: &ReportArgs, plan: &Plan) -> anyhow::Result<Option<Baseline>> {
    let Some(path) = &args.baseline else { return Ok(None) };
    let baseline = Baseline::read(path, args.baseline_tolerance)?;
    match baseline.mismatch(&plan.kind()) {
        None => Ok(Some(baseline)),
        Some(mismatch) => bail!("--baseline {}: {mismatch}", path.display()),
    }
}

fn style(args: &LoadArgs) -> Style {
    match stderr().is_terminal() {
        _ if args.quiet => Style::Quiet,
        true => Style::Live,
        false => Style::Lines,
    }
}

/// The output files, created before the test: a path that can't be written to must not cost a whole run.
struct Files {
    json: Option<Box<dyn Write>>,
    page: Option<File>,
    takes_stdout: bool,
}

impl Files {
    fn create(args: &ReportArgs) -> Result<Files, UsageError> {
        let create = |flag: &str, path: &Path| {
            File::create(path).map_err(|error| UsageError(format!("{flag} {}: {error}", path.display())))
        };
        let takes_stdout = args.json.as_deref() == Some(Path::new("-"));
        let json = match args.json.as_deref() {
            _ if takes_stdout => Some(Box::new(stdout()) as Box<dyn Write>),
            path => path.map(|path| create("--json", path)).transpose()?.map(|file| Box::new(file) as Box<dyn Write>),
        };
        let page = args.report.as_deref().map(|path| create("--report", path)).transpose()?;
        Ok(Files { json, page, takes_stdout })
    }

    fn write(&mut self, report: &Report, outcome: &Outcome) -> anyhow::Result<()> {
        if let Some(file) = &mut self.json {
            let text = serde_json::to_string_pretty(&report.figures)? + "\n";
            file.write_all(text.as_bytes()).context("--json")?;
        }
        if let Some(file) = &mut self.page {
            file.write_all(page(report, outcome.timeline.points()).as_bytes()).context("--report")?;
        }
        Ok(())
    }
}
