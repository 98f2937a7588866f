//! The limits of settings, alone and in combination.

use crate::support::run_in;

/// The errors of `check-config` for these settings.
fn checked(settings: &[(&str, &str)]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let text = lines.join("\n");
    std::fs::write(folder.path().join("config.toml"), text).unwrap();
    let output = run_in(folder.path(), &["check-config"], b"");
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    if output.status.success() { Ok(out) } else { Err(err) }
}

#[test]
fn every_setting_has_its_limits() {
    const TEBIBYTE: u64 = 1 << 40;
    let numbers = [
        ("outbox.cache_bytes", 1 << 20, TEBIBYTE),
        ("outbox.max_pending", 1, 1 << 40),
        ("outbox.min_free_bytes", 0, 1 << 50),
        ("log.max_bytes", 0, 1 << 40),
        ("log.keep", 1, 1000),
        ("delivery.concurrency", 1, 100_000),
        ("delivery.per_destination", 1, 100_000),
        ("delivery.max_unsettled", 256, 1_000_000),
        ("delivery.max_response_bytes", 0, 1 << 30),
        ("delivery.excerpt_bytes", 0, 65_536),
        ("breaker.failures", 0, 1_000_000),
        ("api.max_event_bytes", 256, 16 << 20),
        ("api.max_batch_bytes", 65_536, TEBIBYTE),
        ("metrics.destinations", 0, 1000),
        ("retry.max_attempts", 0, 1 << 30),
    ];
    for (key, least, most) in numbers {
        for value in [least, most] {
            let value = value.to_string();
            let mut settings = vec![(key, value.as_str())];
            if key == "delivery.concurrency" {
                settings.push(("delivery.max_unsettled", "1000000"));
            }
            let said = checked(&settings).unwrap();
            assert!(said.contains(&format!("{key} = {value} ")), "{key} = {value}: {said}");
        }
        for value in [i128::from(least) - 1, i128::from(most) + 1] {
            let said = checked(&[(key, &value.to_string())]).expect_err(key);
            assert!(said.contains(key), "{key} = {value}: {said}");
        }
    }
    for (key, least, below) in [
        ("shutdown_grace", "0s", None),
        ("api.idle_timeout", "100ms", Some("99ms")),
        ("delivery.connect_timeout", "1ms", Some("999us")),
        ("delivery.timeout", "1ms", Some("999us")),
        ("retention.delivered", "1ms", Some("999us")),
        ("retention.failed", "1ms", Some("999us")),
        ("retry.initial_interval", "1ms", Some("999us")),
        ("retry.max_age", "1ms", Some("999us")),
        ("notify.window", "1s", Some("999ms")),
        ("retry.max_retry_after", "0s", None),
        ("breaker.initial_pause", "1ms", Some("999us")),
    ] {
        let quoted = |value: &str| format!("{value:?}");
        let said = checked(&[(key, &quoted(least))]).unwrap();
        assert!(said.contains(&format!("{key} = {} ", quoted(least))), "{said}");
        for beyond in below.into_iter().chain(["101years"]) {
            let said = checked(&[(key, &quoted(beyond))]).expect_err(key);
            assert!(said.contains(key) && said.contains(beyond), "{key} = {beyond}: {said}");
        }
    }
    for (key, least, most, beyond) in [
        ("retry.multiplier", "1.0", "100.0", ["0.999", "100.001"]),
        ("retry.jitter", "0.0", "1.0", ["-0.001", "1.001"]),
        ("retry.final_statuses", "[300]", "[599]", ["[299]", "[600]"]),
    ] {
        for value in [least, most] {
            assert!(checked(&[(key, value)]).unwrap().contains(&format!("{key} = {value} ")));
        }
        for value in beyond {
            assert!(checked(&[(key, value)]).expect_err(key).contains(key), "{key} = {value}");
        }
    }
}

#[test]
fn settings_that_limit_each_other_may_be_equal() {
    for (smaller, larger, [less, equal, more]) in [
        ("delivery.concurrency", "delivery.max_unsettled", ["9", "10", "11"]),
        ("api.max_event_bytes", "api.max_batch_bytes", ["999", "1000", "1001"]),
        ("delivery.connect_timeout", "delivery.timeout", ["\"9ms\"", "\"10ms\"", "\"11ms\""]),
        ("retry.initial_interval", "retry.max_interval", ["\"9ms\"", "\"10ms\"", "\"11ms\""]),
        ("breaker.initial_pause", "breaker.max_pause", ["\"9ms\"", "\"10ms\"", "\"11ms\""]),
    ] {
        for value in [less, equal] {
            checked(&[(smaller, value), (larger, equal)]).unwrap();
        }
        let said = checked(&[(smaller, more), (larger, equal)]).expect_err(smaller);
        assert!(said.contains(smaller) && said.contains(larger), "{said}");
    }
    // If only `delivery.timeout` is set, it also limits the connection time-out.
    checked(&[("delivery.timeout", "\"10ms\"")]).unwrap();
    // The default of `max_unsettled` follows `concurrency`.
    let said = checked(&[("delivery.concurrency", "1000")]).unwrap();
    assert!(said.contains("delivery.max_unsettled = 4000"), "{said}");
}

#[test]
fn a_proxy_is_a_url_with_one_of_four_schemes() {
    for good in [
        "http://proxy:3128",
        "https://proxy:3128",
        "socks5://user:p%20ss@proxy:1080",
        "socks5h://proxy:1080",
        "http://j%FC:p%E4ss@proxy:3128",
    ] {
        checked(&[("egress.proxy", &format!("{good:?}"))]).unwrap();
    }
    for bad in [
        "ftp://proxy:21",
        "proxy",
        "socks5:proxy",
        "socks5://j%FC:pass@proxy:1080",
        "socks5h://user:p%E4ss@proxy:1080",
    ] {
        let said = checked(&[("egress.proxy", &format!("{bad:?}"))]).expect_err(bad);
        assert!(said.contains("egress.proxy") && !said.contains("p%E4ss"), "{said}");
    }
}
