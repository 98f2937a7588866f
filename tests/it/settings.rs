//! Settings: the example, the environment, and every kind of error.

use std::path::Path;

use seal_dpf_urlcallback::config::Config;

use crate::support::{Service, binary, eventually, run_in};

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml"))
        .unwrap()
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let read = |file: Option<&Path>| {
        let mut command = binary();
        let folder = tempfile::tempdir().unwrap();
        command.current_dir(folder.path());
        if let Some(file) = file {
            command.arg("--config").arg(file);
        }
        let output = command.arg("check-config").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(read(Some(&path)), read(None));
    let example = example();
    let mut section = String::new();
    let mut named = Vec::new();
    for line in example.lines() {
        let line = line.trim_start_matches("# ").trim_start_matches('#');
        if let Some(name) = line.strip_prefix('[').and_then(|it| it.split(']').next()) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.split_once(" = ") {
            named.push(format!("{section}{key}"));
        }
    }
    for setting in Config::defaults().unwrap().effective {
        let found = named.iter().any(|name| name == setting.key)
            || example.contains(&format!("[{}.\"", setting.key));
        assert!(found, "config.example.toml lacks {}", setting.key);
    }
}

#[test]
fn all_errors_are_reported_at_once_with_key_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("config.toml"),
        r#"
        data_dirr = "x"
        [retry]
        max_age = "soon"
        multiplier = 0.5
        initial_interval = "1h"
        final_statuses = [200]
        [api]
        listen = "somewhere"
        max_event_bytes = "many"
        read_token_file = "not-there"
        [egress]
        deny = ["10.0.0.0/99"]
        proxy = "proxy:1"
        [tls]
        client_cert_file = "not-there.pem"
        [signing]
        secrets = ["geheim"]
        [auth."http://h"]
        bearer_token_file = "not-there"
        [log]
        level = "loud"
        "#,
    )
    .unwrap();
    for command in ["check-config", "serve", "status"] {
        let output = run_in(folder.path(), &[command], b"");
        assert_eq!(output.status.code(), Some(2), "{command}");
        let said = String::from_utf8(output.stderr).unwrap();
        for key in [
            "data_dirr (config.toml): unknown setting; did you mean `data_dir`?",
            "retry.max_age",
            "retry.multiplier",
            "retry.initial_interval (config.toml): is longer than retry.max_interval",
            "retry.final_statuses",
            "api.listen",
            "api.max_event_bytes",
            "api.read_token_file",
            "egress.deny",
            "egress.proxy",
            "tls.client_cert_file",
            "signing.secrets",
            "auth",
            "log.level",
        ] {
            assert!(said.contains(key), "{command}: {key} in {said}");
        }
        assert!(!said.contains("geheim"), "{said}");
        assert!(!folder.path().join("data").exists(), "{command} changes nothing");
    }
}

#[test]
fn an_invalid_or_missing_settings_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), "signing.secrets = [geheim").unwrap();
    let output = run_in(folder.path(), &["check-config"], b"");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("config.toml") && said.contains("line 1, column"), "{said}");
    assert!(!said.contains("geheim"), "the line may hold a secret: {said}");
    let output = run_in(folder.path(), &["--config", "other.toml", "check-config"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("other.toml"));
}

#[test]
fn every_key_can_be_set_by_the_environment_and_log_level_by_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let output = binary()
        .current_dir(folder.path())
        .env("URLCALLBACK__RETRY__MAX_AGE", "48h")
        .env("URLCALLBACK__RETRY__FINAL_STATUSES", "400, 410")
        .env("URLCALLBACK__EGRESS__DENY", "10.0.0.0/8, fe80::/10")
        .env("URLCALLBACK__DATA_DIR", "elsewhere")
        .env("URLCALLBACK__SIGNING__SECRETS", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .env("LOG_LEVEL", "DEBUG")
        .arg("check-config")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "retry.max_age = \"2days\"  # environment variable URLCALLBACK__RETRY__MAX_AGE",
        "retry.final_statuses = [400, 410]",
        "egress.deny = [\"10.0.0.0/8\", \"fe80::/10\"]",
        "data_dir = \"elsewhere\"",
        "signing.secrets = [\"***\"]",
        "log.level = \"DEBUG\"  # environment variable LOG_LEVEL",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    let output = binary()
        .current_dir(folder.path())
        .env("URLCALLBACK__RETRY__MAXAGE", "48h")
        .arg("check-config")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("retry.maxage (environment variable URLCALLBACK__RETRY__MAXAGE)"),
        "{said}"
    );
}

#[test]
fn log_level_raises_and_lowers_what_is_logged() {
    let mut service = Service::prepare("log.level = \"error\"");
    service.serve();
    let ignored = serde_json::json!({"event": "job_added"});
    assert_eq!(service.api().post("/v1/events", &ignored).status, 200);
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(service.read("service.log"), "");
    service.configure("log.level = \"debug\"");
    service.serve();
    assert_eq!(service.api().post("/v1/events", &ignored).status, 200);
    assert_eq!(service.terminate(), Some(0));
    assert!(service.read("service.log").contains("event-ignored"));
}

#[cfg(unix)]
#[test]
fn the_defaults_apply_only_without_a_settings_file() {
    use std::os::unix::{ffi::OsStrExt as _, fs::symlink};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let faulty = |args: &[&str], says: &str| {
        let output = crate::support::run_in(folder.path(), args, b"");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{says}: {text}");
    };
    assert!(crate::support::run_in(folder.path(), &["check-config"], b"").status.success());
    symlink("nowhere", &path).unwrap();
    faulty(&["check-config"], "the symbolic link config.toml cannot be read");
    faulty(&["serve"], "the symbolic link config.toml cannot be read");
    faulty(&["--config", "config.toml", "check-config"], "cannot be read");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    faulty(&["check-config"], "config.toml: is not a regular file");
    faulty(&["--config", "config.toml", "check-config"], "is a folder");
    std::fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    faulty(&["check-config"], "config.toml: is not a regular file");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"data_dir = \"\xff\"").unwrap();
    faulty(&["check-config"], "config.toml cannot be read");
    std::fs::write(&path, "data_dir = 1.5").unwrap();
    faulty(&["check-config"], "data_dir (config.toml)");
    faulty(&["--config", "none.toml", "check-config"], "there is no file none.toml");

    // A shell's `<(…)` is a pipe.
    let binary = env!("CARGO_BIN_EXE_seal-dpf-urlcallback");
    let script = format!("{binary} --config <(echo 'data_dir = \"elsewhere\"') check-config");
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("data_dir = \"elsewhere\""), "{text}");

    std::fs::remove_file(&path).unwrap();
    let mut command = crate::support::binary();
    let output = command
        .arg("check-config")
        .current_dir(folder.path())
        .env("URLCALLBACK__DATA_DIR", std::ffi::OsStr::from_bytes(b"da\xffta"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("URLCALLBACK__DATA_DIR") && text.contains("UTF-8"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_an_error() {
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"d\xE4ta");
    for (name, exit) in [("URLCALLBACK__DATA_DIR", 2), ("LOG_LEVEL", 2), ("HOME", 0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = binary();
        let output = command.current_dir(folder.path()).env(name, odd).arg("check-config").output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(exit), "{name}: {output:?}");
        assert!(exit == 0 || String::from_utf8_lossy(&output.stderr).contains(name), "{output:?}");
    }
}

#[test]
fn credentials_are_shown_by_destination_only() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "geheim").unwrap();
    let said = |settings: &str| {
        std::fs::write(folder.path().join("config.toml"), settings).unwrap();
        let output = run_in(folder.path(), &["check-config"], b"");
        [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap()).concat()
    };
    assert!(!said("").contains("auth = {"));
    let one = "[auth.\"http://h:80\"]\nbearer_token_file = \"token\"\n";
    let shown = said(one);
    assert!(shown.contains("auth = { \"http://h:80\" = \"***\" }"), "{shown}");
    let again = one.replace(":80", "");
    let twice = said(&[one, &again].concat());
    assert!(twice.contains("\"http://h:80\" has two sections"), "{twice}");
    for (wrong, why) in [
        ("username = \"u\"", "credentials are bearer_token_file, or username and password_file"),
        ("bearer_token_file = \"token\"\nusername = \"u\"", "credentials are bearer_token_file"),
        ("token = \"geheim\"", "\"http://h:80\".token (config.toml): unknown setting"),
    ] {
        let refused = said(&format!("[auth.\"http://h\"]\n{wrong}\n"));
        assert!(refused.contains(why) && !refused.contains("geheim"), "{wrong}: {refused}");
    }
}

#[cfg(unix)]
#[test]
fn a_world_readable_settings_file_with_secrets_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let said = |settings: &str, mode: u32, secrets: Option<&str>| {
        std::fs::write(&file, settings).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = binary();
        command.current_dir(folder.path()).arg("check-config");
        command.envs(secrets.map(|it| ("URLCALLBACK__SIGNING__SECRETS", it)));
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let signing = format!("signing.secrets = [\"{secret}\"]");
    let proxy = "egress.proxy = \"http://user:pass@proxy:3128\"";
    let notify = "notify.url = \"https://user:pass@host/\"";
    for (key, settings) in
        [("signing.secrets", signing.as_str()), ("egress.proxy", proxy), ("notify.url", notify)]
    {
        let warned = said(settings, 0o604, None);
        assert!(warned.contains(key) && warned.contains("config.toml"), "{warned}");
        for mode in [0o600, 0o640] {
            assert_eq!(said(settings, mode, None), "", "{key}, {mode:o}");
        }
    }
    assert_eq!(said("", 0o604, None), "");
    assert_eq!(said("", 0o604, Some(secret)), "", "it is in no file");
    let harmless =
        "signing.secrets = []\negress.proxy = \"http://proxy:3128\"\nnotify.url = \"http://h/\"";
    assert_eq!(said(harmless, 0o604, None), "", "nothing in it is secret");
}

#[test]
fn every_list_can_be_set_by_the_environment_separated_by_commas() {
    let folder = tempfile::tempdir().unwrap();
    let statuses = |value: &str| {
        let mut command = binary();
        command.current_dir(folder.path()).env("URLCALLBACK__RETRY__FINAL_STATUSES", value);
        command.arg("check-config").output().unwrap()
    };
    for (value, shown) in [
        ("400,410", "[400, 410]"),
        ("410", "[410]"),
        ("[400, 410]", "[400, 410]"),
        ("[]", "[]"),
        ("", "[]"),
    ] {
        let output = statuses(value);
        let said = String::from_utf8(output.stdout).unwrap();
        let line = format!("retry.final_statuses = {shown}  # environment variable");
        assert!(said.contains(&line), "{value}: {said}");
    }
    for wrong in ["400,soon", "-1", "4.5", "200", "true"] {
        let output = statuses(wrong);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(said.contains("retry.final_statuses (environment variable"), "{wrong}: {said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_limit_of_open_files_is_raised() {
    let mut service = Service::prepare("");
    let script = "ulimit -S -n 256 && exec \"$0\" serve";
    service.serve_by(&["sh", "-c", script]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert_ne!(numbers[0], "256");
}

#[test]
fn the_log_goes_to_standard_error_where_its_file_is_a_dash() {
    let mut service = Service::prepare("");
    service.serve_with(&[("URLCALLBACK__LOG__FILE", "-")]);
    eventually("it is logged", || service.read("stderr").contains("service-started").then_some(()));
    assert!(!service.path("-").exists() && !service.path("service.log").exists());
}
