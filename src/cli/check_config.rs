//! `check-config`: prints the settings in effect, and what the database and NATS are like.

use super::output::{Exit, Usage, print, say, say_warnings};
use crate::{
    config::{Config, ENV_PREFIX, Effective},
    sources::nats,
};

/// Check the settings and print those in effect
///
/// Reports every error with its key; the exit code is then 2. Secrets are shown as "***".
///
/// Example: seal-dpf-urlcallback --config /etc/urlcallback.toml check-config
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print what is in effect for this callback URL: the section of `destinations` that applies, and the
    /// values
    #[arg(long, value_name = "URL", conflicts_with = "format")]
    explain: Option<String>,

    /// Print them as in the settings file, or as environment variables, without asking a server
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Toml,
    Env,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    say_warnings(config);
    if let Some(url) = &args.explain {
        return explain(config, url);
    }
    if args.format == Format::Env {
        let variables: Vec<_> = config.effective.iter().map(variable).collect();
        let hidden = variables.iter().filter(|it| it.contains("***"));
        let hidden: Vec<_> = hidden.filter_map(|it| it.get(2..)?.split('=').next()).collect();
        variables.iter().try_for_each(print)?;
        if !hidden.is_empty() {
            say(format_args!("comments, because they have secrets: {}", hidden.join(", ")));
        }
        return Ok(());
    }
    for setting in &config.effective {
        let place = setting.place.as_deref().map(|it| format!("  # {it}")).unwrap_or_default();
        match &setting.value {
            Some(value) => print(format_args!("{} = {value}{place}", setting.key))?,
            None => print(format_args!("# {} is not set", setting.key))?,
        }
    }
    for line in config.outbox.examine()? {
        print(format_args!("# database: {line}"))?;
    }
    Ok(())
}

/// The second part, which waits for a server.
pub(super) async fn nats(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    if args.explain.is_none()
        && args.format == Format::Toml
        && let Some(settings) = &config.nats
    {
        for line in nats::examine(settings).await? {
            print(format_args!("# nats: {line}"))?;
        }
    }
    Ok(Exit::Done)
}

/// A setting as a line of a file with environment variables, as systemd, containers and Consul read it.
fn variable(setting: &Effective) -> String {
    let name = format!("{ENV_PREFIX}{}", setting.key.to_uppercase().replace('.', "__"));
    match &setting.value {
        None => format!("# {name} is not set"),
        // Masked values must be filled in.
        Some(value) if value.contains("***") => format!("# {name}={value}"),
        Some(value) => format!("{name}={}", bare(value)),
    }
}

/// A TOML value as a variable has it: text without quotes, unless it would be read as something else.
fn bare(value: &str) -> &str {
    let text = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let is_plain = |text: &&str| {
        !text.is_empty()
            && !text.contains(['\\', '"'])
            && !text.starts_with(['[', '{', '\'', ' '])
            && !text.ends_with(' ')
            && text.parse::<f64>().is_err()
            && text.parse::<bool>().is_err()
    };
    text.filter(is_plain).unwrap_or(value)
}

fn explain(config: &Config, url: &str) -> anyhow::Result<()> {
    let explained = config.explain(url).map_err(|error| Usage(error.to_string()))?;
    print(format_args!("# destination: {}", explained.destination))?;
    match &explained.section {
        Some(section) => print(format_args!("# section: {section}"))?,
        None => print("# section: none of `destinations` applies")?,
    }
    if let Some(denied) = explained.denied {
        print(format_args!("# never called: {denied}"))?;
    }
    for it in explained.values {
        let from = it.from.map(|from| format!("  # {from}")).unwrap_or_default();
        match it.value {
            Some(value) => print(format_args!("{} = {value}{from}", it.key))?,
            None => print(format_args!("# {} is not set", it.key))?,
        }
    }
    Ok(())
}
