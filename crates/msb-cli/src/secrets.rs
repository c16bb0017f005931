//! The flags about secrets, and the builders they come to. A secret's value is never on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use msb::SecretBuilder;
use msb_secrets::{Source, SourceValue};
use serde::{Deserialize, Serialize};

/// How long a command may take to print a value: a password manager may ask its user first.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The same for every subcommand that has secrets.
// Parsed later: clap repeats what it refuses, and a value may be in it.
// Written down with a detached sandbox: flags hold no values.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
pub(crate) struct SecretArgs {
    /// A secret as NAME@HOST[,HOST...]: the value is that of the environment variable NAME of msb, clients hold a
    /// placeholder (`$MSB_NAME`), and only these hosts (or `*.suffix` patterns) get the value. May be repeated.
    #[arg(long = "secret", value_name = "NAME@HOST[,HOST..]")]
    pub(crate) secrets: Vec<String>,

    /// Takes the value of the secret NAME from a file instead of the environment; one line break at its end is taken off.
    #[arg(long = "secret-file", value_name = "NAME=PATH")]
    pub(crate) files: Vec<String>,

    /// Takes the value of the secret NAME from what a shell command prints.
    #[arg(long = "secret-command", value_name = "NAME=COMMAND")]
    pub(crate) commands: Vec<String>,

    /// Where the secret NAME is put in: any of headers, basic (credentials in Authorization), query, body. Default:
    /// headers,basic.
    #[arg(long = "secret-inject", value_name = "NAME=PLACE[,PLACE..]")]
    pub(crate) injects: Vec<String>,

    /// The placeholder of the secret NAME, instead of `$MSB_NAME`.
    #[arg(long = "secret-placeholder", value_name = "NAME=TEXT")]
    pub(crate) placeholders: Vec<String>,

    /// Gives the secret NAME a placeholder with the prefix, length and kinds of characters of its value, for programs
    /// that check how a key is written.
    #[arg(long = "secret-placeholder-like-value", value_name = "NAME")]
    pub(crate) likenesses: Vec<String>,

    /// Hosts that may see the placeholder of the secret NAME itself, such as a model's whose transcript mentions it; they
    /// do not get the value.
    #[arg(long = "secret-passthrough", value_name = "NAME=HOST[,HOST..]")]
    pub(crate) passthroughs: Vec<String>,

    /// Puts the secret NAME into plaintext HTTP to its hosts as well; whoever is on the way there can then obtain it. In
    /// `msb proxy`, tunnels may then carry what is not TLS.
    #[arg(long = "secret-no-tls-identity", value_name = "NAME")]
    pub(crate) without_tls_identity: Vec<String>,

    /// Leaves the value of the secret NAME in responses, where it is otherwise replaced by the placeholder.
    #[arg(long = "secret-no-scrub", value_name = "NAME")]
    pub(crate) unscrubbed: Vec<String>,
}

/// One secret as the flags describe it. The value stays where it is until it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SecretSpec {
    pub(crate) name: String,
    pub(crate) hosts: Vec<String>,
    source: From,
    inject: Option<Places>,
    placeholder: Placeholder,
    passthrough: Vec<String>,
    no_tls_identity: bool,
    no_scrub: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum From {
    #[default]
    Env,
    File(PathBuf),
    Command(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Placeholder {
    #[default]
    OfName,
    Text(String),
    LikeValue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    headers: bool,
    basic: bool,
    query: bool,
    body: bool,
}

impl SecretArgs {
    /// What the flags describe, without looking at any value.
    ///
    /// # Errors
    /// What cannot be meant; no error repeats what may be a value.
    pub(crate) fn specs(&self) -> Result<Vec<SecretSpec>> {
        let mut specs = Specs::default();
        for text in &self.secrets {
            let (name, hosts) = name_and_hosts(text).context("--secret")?;
            if specs.0.iter().any(|spec| spec.name == name) {
                bail!("--secret {name}: given twice; write all its hosts in one, with commas");
            }
            specs.0.push(SecretSpec {
                name,
                hosts,
                ..SecretSpec::default()
            });
        }
        for (flag, texts, set) in self.settings() {
            for text in texts {
                let (name, setting) = text.split_once('=').ok_or_else(|| {
                    anyhow!("{flag}: write NAME=..., for example {}", example(flag))
                })?;
                let spec = specs.find(flag, name)?;
                set(spec, setting).with_context(|| format!("{flag} {name}"))?;
            }
        }
        for name in &self.likenesses {
            let spec = specs.find("--secret-placeholder-like-value", name)?;
            if spec.placeholder != Placeholder::OfName {
                bail!("--secret-placeholder-like-value {name}: it has another placeholder already");
            }
            spec.placeholder = Placeholder::LikeValue;
        }
        for name in &self.without_tls_identity {
            specs
                .find("--secret-no-tls-identity", name)?
                .no_tls_identity = true;
        }
        for name in &self.unscrubbed {
            specs.find("--secret-no-scrub", name)?.no_scrub = true;
        }
        Ok(specs.0)
    }

    fn settings(&self) -> [(&'static str, &[String], Setter); 5] {
        [
            ("--secret-file", &self.files, |spec, path| {
                spec.set_source(From::File(path.into()), path)
            }),
            ("--secret-command", &self.commands, |spec, command| {
                spec.set_source(From::Command(command.to_owned()), command)
            }),
            ("--secret-inject", &self.injects, SecretSpec::set_places),
            ("--secret-placeholder", &self.placeholders, |spec, text| {
                if spec.placeholder != Placeholder::OfName {
                    bail!("given twice");
                }
                spec.placeholder = Placeholder::Text(text.to_owned());
                Ok(())
            }),
            ("--secret-passthrough", &self.passthroughs, |spec, hosts| {
                spec.passthrough.extend(comma_separated(hosts)?);
                Ok(())
            }),
        ]
    }
}

type Setter = fn(&mut SecretSpec, &str) -> Result<()>;

fn example(flag: &str) -> &'static str {
    match flag {
        "--secret-file" => "API_KEY=/run/secrets/api-key",
        "--secret-command" => "API_KEY='pass show api-key'",
        "--secret-inject" => "API_KEY=headers,query",
        "--secret-placeholder" => "API_KEY=sk-placeholder",
        _ => "API_KEY=api.example.com",
    }
}

#[derive(Default)]
struct Specs(Vec<SecretSpec>);

impl Specs {
    fn find(&mut self, flag: &str, name: &str) -> Result<&mut SecretSpec> {
        let found = self.0.iter_mut().find(|spec| spec.name == name);
        // The name is not repeated where it is unknown: it may be a value.
        found.with_context(|| {
            format!("{flag}: there is no secret of that name; add --secret NAME@HOST")
        })
    }
}

/// `NAME@HOST[,HOST...]`.
fn name_and_hosts(text: &str) -> Result<(String, Vec<String>)> {
    let (name, hosts) = text.split_once('@').unwrap_or((text, ""));
    if name.contains('=') {
        // The text holds the value: it is not repeated.
        bail!(
            "a value on the command line shows in process lists and shell history; export it as an environment \
             variable and write NAME@HOST"
        );
    }
    let usage = "write NAME@HOST[,HOST...], for example API_KEY@api.example.com";
    if name.is_empty() {
        bail!(usage);
    }
    let hosts = comma_separated(hosts).map_err(|_| anyhow!(usage))?;
    Ok((name.to_owned(), hosts))
}

fn comma_separated(text: &str) -> Result<Vec<String>> {
    if text.split(',').any(str::is_empty) {
        bail!("write HOST[,HOST...], for example api.example.com");
    }
    Ok(text.split(',').map(str::to_owned).collect())
}

impl SecretSpec {
    fn set_source(&mut self, source: From, text: &str) -> Result<()> {
        if text.is_empty() {
            bail!("there is nothing behind the `=`");
        }
        if self.source != From::Env {
            bail!("the value can come from one file or one command only");
        }
        self.source = source;
        Ok(())
    }

    fn set_places(&mut self, text: &str) -> Result<()> {
        if self.inject.is_some() {
            bail!("given twice; write all places in one, with commas");
        }
        let mut places = Places::default();
        for word in text.split(',') {
            match word {
                "headers" => places.headers = true,
                "basic" => places.basic = true,
                "query" => places.query = true,
                "body" => places.body = true,
                _ => bail!("{word:?} is no place: use headers, basic, query, body"),
            }
        }
        self.inject = Some(places);
        Ok(())
    }

    /// Whether its placeholder is one that cannot be known without the value.
    pub(crate) fn has_placeholder_like_value(&self) -> bool {
        self.placeholder == Placeholder::LikeValue
    }

    /// Reads the value; blocks until it is there.
    ///
    /// # Errors
    /// Why there is none, without any part of one.
    pub(crate) fn read(&self) -> Result<SourceValue> {
        let name = &self.name;
        let (source, advice) = match &self.source {
            From::Env => (Source::Env(name.clone()), format!(": export {name} first")),
            From::File(path) => (Source::File(path.clone()), String::new()),
            From::Command(command) => (
                Source::Command {
                    program: "/bin/sh".into(),
                    arguments: vec![OsString::from("-c"), command.into()],
                    timeout: COMMAND_LIMIT,
                },
                String::new(),
            ),
        };
        source
            .read()
            .with_context(|| format!("the secret {name} has no value{advice}"))
    }

    /// The secret with this value; `placeholder` is what it was before its value changed.
    pub(crate) fn builder(&self, value: SourceValue, placeholder: Option<&str>) -> SecretBuilder {
        self.settings(placeholder).source_value(value)
    }

    /// The secret without its value.
    pub(crate) fn settings(&self, placeholder: Option<&str>) -> SecretBuilder {
        let mut secret = SecretBuilder::new()
            .env(&self.name)
            .require_tls_identity(!self.no_tls_identity)
            .scrub_responses(!self.no_scrub);
        for host in &self.hosts {
            secret = if host.contains('*') {
                secret.allow_host_pattern(host)
            } else {
                secret.allow_host(host)
            };
        }
        for host in &self.passthrough {
            secret = if host.contains('*') {
                secret.passthrough_host_pattern(host)
            } else {
                secret.passthrough_host(host)
            };
        }
        if let Some(places) = self.inject {
            secret = secret
                .inject_headers(places.headers)
                .inject_basic_auth(places.basic)
                .inject_query(places.query)
                .inject_body(places.body);
        }
        match (&self.placeholder, placeholder) {
            (_, Some(text)) => secret.placeholder(text),
            (Placeholder::OfName, None) => secret,
            (Placeholder::Text(text), None) => secret.placeholder(text),
            (Placeholder::LikeValue, None) => secret.placeholder_like_value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags as on a command line.
    fn specs(flags: &[&str]) -> Result<Vec<SecretSpec>> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            secrets: SecretArgs,
        }
        let words = std::iter::once("msb").chain(flags.iter().copied());
        <Only as clap::Parser>::try_parse_from(words)?
            .secrets
            .specs()
    }

    #[track_caller]
    fn check_refused(flags: &[&str], expected: &str) {
        let error = format!("{:#}", specs(flags).expect_err("refused"));
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn secrets_parse_or_say_what_to_write() {
        for (text, expected) in [
            ("KEY@a.example", Some(vec!["a.example"])),
            (
                "KEY@a.example,*.b.example",
                Some(vec!["a.example", "*.b.example"]),
            ),
            ("KEY", None),
            ("KEY@", None),
            ("@a.example", None),
            ("KEY@a.example,", None),
            ("KEY=value@a.example", None),
            ("KEY=a@b.example", None),
        ] {
            let hosts = specs(&["--secret", text])
                .ok()
                .map(|specs| specs[0].hosts.clone());
            let expected = expected.map(|hosts| hosts.into_iter().map(str::to_owned).collect());
            assert_eq!(hosts, expected, "{text}");
        }
    }

    #[test]
    fn a_value_on_the_command_line_is_refused_and_not_repeated() {
        for text in ["KEY=sk-canary@a.example", "KEY=sk-canary", "sk-canary"] {
            check_refused(&["--secret", text], "--secret");
        }
        check_refused(
            &[
                "--secret",
                "KEY@a.example",
                "--secret-inject",
                "sk-canary=query",
            ],
            "no secret of that name",
        );
        check_refused(
            &[
                "--secret",
                "KEY@a.example",
                "--secret-placeholder",
                "sk-canary",
            ],
            "write NAME=",
        );
    }

    #[test]
    fn settings_are_for_a_secret_that_is_there_and_are_given_once() {
        let key = ["--secret", "KEY@a.example"];
        for (flags, expected) in [
            (&["--secret", "KEY@b.example"][..], "given twice"),
            (&["--secret-file", "OTHER=x"], "no secret of that name"),
            (&["--secret-no-scrub", "OTHER"], "no secret of that name"),
            (
                &["--secret-no-tls-identity", "OTHER"],
                "no secret of that name",
            ),
            (&["--secret-file", "KEY"], "API_KEY=/run/secrets"),
            (&["--secret-file", "KEY="], "nothing behind"),
            (
                &["--secret-file", "KEY=a", "--secret-command", "KEY=b"],
                "one file or one command",
            ),
            (
                &["--secret-inject", "KEY=headers,path"],
                "\"path\" is no place",
            ),
            (&["--secret-inject", "KEY="], "\"\" is no place"),
            (
                &[
                    "--secret-inject",
                    "KEY=query",
                    "--secret-inject",
                    "KEY=body",
                ],
                "given twice",
            ),
            (&["--secret-passthrough", "KEY=a,,b"], "write HOST"),
            (
                &[
                    "--secret-placeholder",
                    "KEY=x",
                    "--secret-placeholder-like-value",
                    "KEY",
                ],
                "another placeholder",
            ),
        ] {
            check_refused(&[&key[..], flags].concat(), expected);
        }
    }

    #[test]
    fn all_settings_arrive_at_the_secret() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "sk-canary\n").expect("written");
        let path = format!("KEY={}", file.path().display());
        let flags = [
            "--secret",
            "KEY@a.example,*.b.example",
            "--secret-file",
            &path,
            "--secret-inject",
            "KEY=query,body",
            "--secret-placeholder",
            "KEY=the placeholder=1",
            "--secret-passthrough",
            "KEY=llm.example,*.llm.example",
            "--secret-no-scrub",
            "KEY",
        ];
        let specs = specs(&flags).expect("parsed");
        let value = specs[0].read().expect("a value");
        let secret = specs[0].builder(value, None).build().expect("a secret");
        assert_eq!(secret.env(), "KEY");
        assert_eq!(secret.placeholder(), "the placeholder=1");
        assert!(secret.injects_query() && secret.injects_body());
        let host = |name: &str| name.parse().expect("a name");
        assert!(
            secret.scope().allows(&host("a.example"))
                && secret.scope().allows(&host("x.b.example"))
        );
        assert!(secret.passthrough().matches(&host("llm.example")));
        assert!(!secret.scope().allows(&host("llm.example")));
    }

    #[test]
    fn values_come_from_where_the_flags_say_or_it_is_told_why_not() {
        let read = |flags: &[&str]| {
            let flags = [&["--secret", "MSB_TEST_NOT_SET@a.example"], flags].concat();
            specs(&flags).expect("parsed")[0].read().map(|_| ())
        };
        let piped = "MSB_TEST_NOT_SET=printf %s sk-canary | cat";
        read(&["--secret-command", piped]).expect("a value");
        for (flags, expected) in [
            (
                &[][..],
                "the secret MSB_TEST_NOT_SET has no value: export MSB_TEST_NOT_SET first",
            ),
            (
                &["--secret-file", "MSB_TEST_NOT_SET=/nonexistent/key"],
                "/nonexistent/key",
            ),
            (
                &[
                    "--secret-command",
                    "MSB_TEST_NOT_SET=echo sk-canary; exit 3",
                ],
                "exit status: 3",
            ),
        ] {
            let error = format!("{:#}", read(flags).expect_err("refused"));
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
