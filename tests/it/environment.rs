//! Settings as environment variables.

use std::collections::BTreeMap;

use crate::support::binary;

/// The standard output of `check-config` with these settings, without their sources, and its standard error.
fn checked(toml: &str, env: &BTreeMap<String, String>, args: &[&str]) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "geheim-geheim-geheim").unwrap();
    if !toml.is_empty() {
        std::fs::write(folder.path().join("config.toml"), toml).unwrap();
    }
    let mut command = binary();
    let output = command.current_dir(folder.path()).envs(env).arg("check-config").args(args);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let place = |line: &str| line.split("  # ").next().unwrap().to_owned();
    (text.lines().map(place).collect(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_settings_in_effect_are_printed_as_variables_that_have_the_same_effect() {
    let toml = r#"
        data_dir = "a folder with # and = in it"
        api.read_token_file = "token"
        tracker.url_template = ""
        retry.max_age = "48h"
        retry.final_statuses = [400, 410]
        egress.deny = []
        egress.https_only = true
        signing.secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        log.level = "WARN"
        log.file = "123"
        [destinations."https://*.example.com"]
        bearer_token_file = "token"
        [destinations."http://other:8080"]
        requests_per_second = 2.5
        timeout = "7s"
    "#;
    let (printed, said) = checked(toml, &BTreeMap::new(), &["--format", "env"]);
    let hidden = "comments, because they have secrets: URLCALLBACK__SIGNING__SECRETS";
    assert!(said.lines().any(|line| line == hidden), "{said}");
    assert!(printed.contains(&"URLCALLBACK__RETRY__MAX_AGE=2days".to_owned()), "{printed:#?}");
    assert!(printed.contains(&"# URLCALLBACK__SIGNING__SECRETS=[\"***\"]".to_owned()));
    assert!(printed.contains(&"# URLCALLBACK__EGRESS__PROXY is not set".to_owned()));
    let set = printed.iter().filter(|line| !line.starts_with('#'));
    let env = set.map(|line| line.split_once('=').unwrap());
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let secret = |line: &String| !line.contains("signing.secrets");
    let [before, after] = [checked(toml, &BTreeMap::new(), &[]).0, checked("", &env, &[]).0];
    let of = |lines: Vec<String>| lines.into_iter().filter(secret).collect::<Vec<_>>();
    let (before, after) = (of(before), of(after));
    let differs: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    assert!(differs.is_empty() && before.len() == after.len(), "{differs:#?}");
}
