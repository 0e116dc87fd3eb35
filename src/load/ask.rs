//! The questions that `fanfare load` asks when it is started without arguments on a terminal.

use std::io::{BufRead, Write};

use anyhow::{Context, ensure};
use clap::ValueEnum;

use super::args::{LoadArgs, Scenario};

const URL_DEFAULT: &str = "http://127.0.0.1:3001/dashboard/stream";

/// Fills in what `args` leave open; an empty answer selects the default in brackets.
pub fn ask(args: &LoadArgs, input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<LoadArgs> {
    let mut args = args.clone();
    args.urls = vec![answer(input, output, "Address of the stream", URL_DEFAULT)?];
    if args.scenario.is_none() {
        args.scenario = Some(ask_scenario(input, output)?);
    }
    if args.clients.is_none() && args.scenario != Some(Scenario::Single) {
        let clients = answer(input, output, "Clients", "1000")?;
        args.clients = Some(clients.parse().with_context(|| format!("{clients:?} is not a number of clients"))?);
    }
    if args.publishing.publish_url.is_none() && args.publishing.redis_url.is_none() {
        let url = answer(input, output, "Publish to (an http:// or redis:// address, empty for nothing)", "")?;
        match url.as_str() {
            "" => {}
            redis if redis.starts_with("redis") && redis.contains("://") => args.publishing.redis_url = Some(url),
            _ => args.publishing.publish_url = Some(url),
        }
    }
    Ok(args)
}

fn ask_scenario(input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<Scenario> {
    let scenarios = Scenario::value_variants();
    let value = |scenario: &Scenario| scenario.to_possible_value();
    writeln!(output, "What should the clients do?")?;
    for (index, possible) in scenarios.iter().filter_map(value).enumerate() {
        let help = possible.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(output, "  {}  {:10} {help}", index + 1, possible.get_name())?;
    }
    let chosen = answer(input, output, "Number or name", "multi")?;
    let by_number = chosen.parse::<usize>().ok().and_then(|number| scenarios.get(number.wrapping_sub(1)).copied());
    by_number
        .or_else(|| Scenario::from_str(&chosen, true).ok())
        .with_context(|| format!("{chosen:?} is not a scenario"))
}

fn answer(input: &mut impl BufRead, output: &mut impl Write, question: &str, default: &str) -> anyhow::Result<String> {
    let brackets = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    write!(output, "{question}{brackets}: ")?;
    output.flush()?;
    let mut line = String::new();
    ensure!(input.read_line(&mut line)? > 0, "no answer to {question:?}");
    let line = line.trim();
    Ok(if line.is_empty() { default.to_owned() } else { line.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn check(answers: &str, expected: Option<(&str, Scenario, Option<u32>, Option<&str>)>) {
        let args = Typed::parse_from(["load"]).args;
        let mut output = Vec::new();
        let asked = ask(&args, &mut answers.as_bytes(), &mut output).ok();
        let found = asked.as_ref().map(|args| {
            let publishing = args.publishing.publish_url.as_deref().or(args.publishing.redis_url.as_deref());
            (args.urls[0].as_str(), args.scenario.unwrap(), args.clients, publishing)
        });
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(&output));
    }

    #[test]
    fn answers_fill_in_the_plan() {
        check("\n\n\n\n", Some((URL_DEFAULT, Scenario::Multi, Some(1000), None)));
        check("http://h/\nstorm\n50\nredis://r\n", Some(("http://h/", Scenario::Storm, Some(50), Some("redis://r"))));
        check("\n1\nhttp://p\n", Some((URL_DEFAULT, Scenario::Single, None, Some("http://p"))));
        check("\n1\nredis-host:3001\n", Some((URL_DEFAULT, Scenario::Single, None, Some("redis-host:3001"))));
        check("\n4\n5\n\n", Some((URL_DEFAULT, Scenario::Churn, Some(5), None)));
        check("\nnonsense\n", None);
        check("\nmulti\nmany\n", None);
        check("", None);
    }
}
