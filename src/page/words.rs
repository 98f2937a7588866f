//! The texts of the page, in English and German.

use crate::outbox::Stage;

macro_rules! words {
    ($($name:ident: $en:literal, $de:literal;)*) => {
        /// The texts in one language.
        #[derive(Debug)]
        pub(super) struct Words {
            $(pub(super) $name: &'static str,)*
        }

        pub(super) static EN: Words = Words { $($name: $en,)* };
        pub(super) static DE: Words = Words { $($name: $de,)* };
    };
}

impl Words {
    /// The label of a field of the filter, by its name in URLs and forms.
    pub(super) fn of_field<'a>(&self, name: &'a str) -> &'a str {
        match name {
            "state" => self.state,
            "destination" => self.destination,
            "jobId" => self.job,
            "jobIdFs" => self.directory,
            "errorKind" => self.error_kind,
            "since" => self.since,
            "until" => self.until,
            "endedSince" => self.ended_since,
            "endedUntil" => self.ended_until,
            _ => name,
        }
    }

    /// The label of a value of the filter's `state`, by its name in URLs. Stages are below their state.
    pub(super) fn of_state(&self, name: &str) -> String {
        let stage = |word| format!("\u{2013} {word}");
        match name {
            "due" => stage(self.due),
            "waiting" => stage(self.waiting),
            "in_flight" => stage(self.in_flight),
            "delivered" => self.delivered.to_owned(),
            "failed" => self.failed.to_owned(),
            _ => self.pending.to_owned(),
        }
    }

    /// The label of a stage.
    pub(super) fn of_stage(&self, stage: Stage) -> &'static str {
        match stage {
            Stage::Due => self.due,
            Stage::Waiting => self.waiting,
            Stage::InFlight => self.in_flight,
        }
    }
}

words! {
    lang: "en", "de";
    other: "de", "en";
    other_name: "Deutsch", "English";
    thousands: ",", ".";
    skip: "Skip to the content", "Zum Inhalt springen";
    navigation: "Views", "Ansichten";
    overview: "Overview", "Übersicht";
    callbacks: "Callbacks", "Callbacks";
    destinations: "Destinations", "Ziele";
    destination: "Destination", "Ziel";
    search: "Search", "Suchen";
    search_hint: "Job id, job directory, callback id or host", "Job-Id, Job-Verzeichnis, Callback-Id oder Host";
    theme: "Colours", "Farben";
    theme_system: "as the system", "wie das System";
    theme_light: "light", "hell";
    theme_dark: "dark", "dunkel";
    times: "Times", "Zeiten";
    times_local: "local", "Ortszeit";
    times_utc: "UTC", "UTC";
    stale: "Not up to date: the service does not answer.", "Nicht aktuell: Der Dienst antwortet nicht.";
    read_only: "Read-only", "Nur Lesen";
    signed_in_as: "Signed in as", "Angemeldet als";
    pending: "Pending", "Ausstehend";
    due: "Due", "Fällig";
    due_paused: "more at paused destinations", "weitere bei angehaltenen Zielen";
    waiting: "Waiting", "Wartend";
    in_flight: "In flight", "Unterwegs";
    delivered: "Delivered", "Zugestellt";
    failed: "Failed", "Fehlgeschlagen";
    state: "State", "Zustand";
    any: "any", "beliebig";
    oldest_due: "Oldest due for", "Ältester fällig seit";
    trouble: "No events are accepted:", "Es werden keine Ereignisse angenommen:";
    nats: "Events from NATS:", "Ereignisse von NATS:";
    nats_pulling: "pulled by this instance", "von dieser Instanz geholt";
    nats_standby: "pulled by another instance", "von einer anderen Instanz geholt";
    nats_waiting: "not pulled:", "nicht geholt:";
    troubled: "Destinations that do not work", "Ziele, die nicht funktionieren";
    none_troubled: "All destinations work.", "Alle Ziele funktionieren.";
    instances: "Instances", "Instanzen";
    machine: "Machine", "Rechner";
    this_one: "this one", "diese";
    seen_at: "Last seen", "Zuletzt gesehen";
    shards: "Shards", "Shards";
    connected: "connected", "verbunden";
    not_connected: "not connected", "nicht verbunden";
    all_destinations: "All destinations", "Alle Ziele";
    recently_failed: "Last failed", "Zuletzt fehlgeschlagen";
    none_failed: "No callback has failed.", "Kein Callback ist fehlgeschlagen.";
    all_failed: "All failed callbacks", "Alle fehlgeschlagenen";
    throughput: "Throughput", "Durchsatz";
    last_hour: "Last hour", "Letzte Stunde";
    last_day: "Last 24 hours", "Letzte 24 Stunden";
    accepted: "Accepted", "Angenommen";
    failed_attempts: "Failed attempts", "Fehlversuche";
    so_many_delivered: "delivered", "zugestellt";
    so_many_failed: "failed attempts", "Fehlversuche";
    counted_since: "Counted since the start of the service:", "Gezählt seit dem Start des Dienstes:";
    delivered_since: "delivered ones, from the store, since:", "zugestellte, aus dem Speicher, seit:";
    empty: "There is no callback yet. Submit an event to try it:", "Es gibt noch keinen Callback. Zum Ausprobieren ein Ereignis einreichen:";
    empty_after: "The destination is down until a receiver listens there; start one with", "Das Ziel bleibt gestört, bis dort ein Empfänger lauscht; so wird einer gestartet:";
    job: "Job", "Job";
    directory: "Directory", "Verzeichnis";
    job_state: "Job state", "Job-Zustand";
    accepted_at: "Accepted at", "Angenommen am";
    ended_at: "Ended at", "Beendet am";
    next_or_ended: "Next, or ended at", "Nächstes, oder beendet am";
    expires_at: "Expires at", "Läuft ab am";
    attempts: "Attempts", "Versuche";
    attempt: "Attempt", "Versuch";
    no_attempts: "No attempt was made.", "Es gab keinen Versuch.";
    replays: "Replays", "Wiederholungen";
    last_error: "Last error", "Letzter Fehler";
    error_kind: "Kind of error", "Art des Fehlers";
    next: "Next", "Nächstes";
    next_stuck: "stuck", "hängt fest";
    next_in_flight: "in flight", "unterwegs";
    next_waits: "waits for another callback of its job", "wartet auf einen anderen Callback seines Jobs";
    next_paused: "destination paused", "Ziel angehalten";
    next_retry: "retry", "neuer Versuch";
    next_open: "waits until its destination works", "wartet, bis sein Ziel funktioniert";
    next_open_retry: "destination down; retry not before", "Ziel gestört; neuer Versuch nicht vor";
    next_held: "destination held until", "Ziel zurückgehalten bis";
    next_due: "due", "fällig";
    next_removed: "will be removed", "wird entfernt";
    since: "Accepted since", "Angenommen seit";
    until: "Accepted before", "Angenommen vor";
    ended_since: "Ended since", "Beendet seit";
    ended_until: "Ended before", "Beendet vor";
    time_hint: "12h or 2026-01-31 08:00", "12h oder 2026-01-31 08:00";
    times_are: "Times are UTC, also if the page shows local ones; 12h means twelve hours ago.", "Zeiten sind UTC, auch wenn die Seite Ortszeiten zeigt; 12h heißt: vor zwölf Stunden.";
    invalid_state: "expected pending, due, waiting, in_flight, delivered or failed", "erwartet wird pending, due, waiting, in_flight, delivered oder failed";
    invalid_destination: "expected a host, a host and a port, or scheme, host and port, such as http://host:8080", "erwartet wird ein Host, Host und Port, oder Schema, Host und Port, wie http://host:8080";
    invalid_error_kind: "there is no such kind of error", "diese Art des Fehlers gibt es nicht";
    invalid_time: "expected a time such as 2026-01-31 08:00 (UTC), or a duration such as 12h", "erwartet wird eine Zeit wie 2026-01-31 08:00 (UTC) oder eine Dauer wie 12h";
    several_hosts: "Several destinations have this host; choose one:", "Mehrere Ziele haben diesen Host; eines davon wählen:";
    not_filtered: "Nothing is listed, because the filter cannot be read.", "Nichts ist aufgelistet, weil der Filter nicht lesbar ist.";
    filter: "Filter", "Filtern";
    clear: "Clear", "Zurücksetzen";
    more_filters: "More filters", "Weitere Filter";
    no_match: "No callback matches.", "Kein Callback passt.";
    search_goes_on: "None was found so far; continue with the next page.", "Bisher keiner gefunden; weiter mit der nächsten Seite.";
    next_page: "Next page", "Nächste Seite";
    choose: "Select", "Auswählen";
    choose_all: "Select all on this page", "Alle auf dieser Seite auswählen";
    for_which: "For which callbacks:", "Für welche Callbacks:";
    the_ticked: "the selected ones", "die ausgewählten";
    all_that: "all", "alle";
    that_match: "that match", "passenden";
    more_than: "more than", "mehr als";
    nothing_ticked: "No callback was selected, and nothing was done. Go back and select some, or choose all that match.", "Kein Callback war ausgewählt, und nichts wurde getan. Zurückgehen und welche auswählen, oder alle passenden wählen.";
    and: "and", "und";
    and_at_least: "and at least", "und mindestens";
    more: "more", "weitere";
    replay: "Send again", "Erneut senden";
    replay_explained: "Failed callbacks become pending again, with a new time limit and new attempts.", "Fehlgeschlagene Callbacks stehen wieder aus, mit neuer Frist und neuen Versuchen.";
    cancel: "Cancel", "Abbrechen";
    cancel_explained: "Pending callbacks end and count as failed. Those in flight stay.", "Ausstehende Callbacks enden und zählen als fehlgeschlagen. Die unterwegs sind, bleiben.";
    retry_now: "Try now", "Jetzt versuchen";
    retry_now_explained: "Pending callbacks are due now, and their destinations are tried at once.", "Ausstehende Callbacks sind sofort fällig, und ihre Ziele werden sofort versucht.";
    matches: "callback matches", "Callback passt";
    matching: "callbacks match", "Callbacks passen";
    or_more: "or more", "oder mehr";
    replay_confirmed: "Yes, send again", "Ja, erneut senden";
    cancel_confirmed: "Yes, cancel the callbacks", "Ja, Callbacks abbrechen";
    retry_now_confirmed: "Yes, try now", "Ja, jetzt versuchen";
    back: "No, do nothing", "Nein, nichts tun";
    stop: "Stop here", "Hier aufhören";
    go_on: "Go on", "Weiter";
    done_so_far: "Done so far:", "Bisher erledigt:";
    replayed: "To be sent again:", "Werden erneut gesendet:";
    cancelled: "Cancelled:", "Abgebrochen:";
    retried: "Due now:", "Jetzt fällig:";
    of: "of", "von";
    pause: "Pause", "Anhalten";
    resume: "Resume", "Fortsetzen";
    paused_done: "Paused. Events are still accepted; nothing is sent, and nothing expires.", "Angehalten. Ereignisse werden weiter angenommen; nichts wird gesendet, und nichts läuft ab.";
    resumed_done: "Resumed.", "Fortgesetzt.";
    since_when: "Since", "Seit";
    so_since: "State of the destination since", "Zustand des Ziels seit";
    next_probe: "next probe", "nächste Probe";
    next_probe_not_before: "next probe not before", "nächste Probe nicht vor";
    next_probe_now: "next probe at once", "nächste Probe sofort";
    next_probe_when_due: "next probe as soon as a callback is due", "nächste Probe, sobald ein Callback fällig ist";
    probe_in_flight: "a probe is in flight", "eine Probe ist unterwegs";
    none_since: "nothing delivered since", "nichts zugestellt seit";
    or_earlier: "or earlier, before the service was started", "oder früher, vor dem Start des Dienstes";
    oldest_fails: "its oldest callback has failed since", "sein ältester Callback scheitert seit";
    held_until: "held until", "zurückgehalten bis";
    no_destinations: "No destination.", "Kein Ziel.";
    timeline: "Attempts, latest first", "Versuche, neueste zuerst";
    status: "Status", "Status";
    excerpt: "Response", "Antwort";
    request: "Request as it is sent", "Anfrage, wie sie gesendet wird";
    secrets_masked: "Secrets are shown as ***.", "Geheimnisse erscheinen als ***.";
    as_curl: "As a curl command", "Als curl-Befehl";
    copy: "Copy", "Kopieren";
    copied: "Copied", "Kopiert";
    tracker: "DPF Tracker", "DPF Tracker";
    url: "URL", "URL";
    invalid_id: "This is not the id of a callback.", "Das ist keine Id eines Callbacks.";
    no_such_callback: "There is no such callback. It may have been removed after its retention.", "Diesen Callback gibt es nicht. Vielleicht wurde er nach der Aufbewahrung entfernt.";
    no_such_page: "There is no such page.", "Diese Seite gibt es nicht.";
    unknown_field: "There is no field with this name:", "Es gibt kein Feld mit diesem Namen:";
    invalid_field: "Nothing was done, because a field cannot be read:", "Nichts wurde getan, weil ein Feld nicht lesbar ist:";
    outbox_failed: "The store cannot do this now:", "Der Speicher kann das gerade nicht:";
    nothing_selected: "Nothing was selected, and nothing was done.", "Nichts war ausgewählt, und nichts wurde getan.";
    needs_tls: "From other machines, the page needs TLS (api.tls_cert_file). Nothing was done.", "Von anderen Rechnern aus braucht die Seite TLS (api.tls_cert_file). Nichts wurde getan.";
    needs_sign_in: "Sign in with any name, and the API's token as the password; or run `seal-dpf-urlcallback ui` on the machine of the service.", "Anmelden mit einem beliebigen Namen und dem Token der API als Passwort; oder auf dem Rechner des Dienstes `seal-dpf-urlcallback ui` aufrufen.";
    may_only_look: "This token may only look. Nothing was done.", "Dieses Token darf nur lesen. Nichts wurde getan.";
    from_elsewhere: "The request came from another site. Nothing was done.", "Die Anfrage kam von einer anderen Website. Nichts wurde getan.";
    signing_in: "Signing in", "Anmeldung";
    sign_in_needs_script: "The link needs JavaScript. Without it, sign in with the API's token as the password:", "Der Link braucht JavaScript. Ohne es mit dem Token der API als Passwort anmelden:";
    link_is_missing: "This page is for a link that signs in. `seal-dpf-urlcallback ui` opens one.", "Diese Seite ist für einen Link, der anmeldet. `seal-dpf-urlcallback ui` öffnet einen.";
    link_is_over: "This link was used already, or is older than a minute. Run `seal-dpf-urlcallback ui` again.", "Dieser Link wurde schon benutzt oder ist älter als eine Minute. `seal-dpf-urlcallback ui` erneut aufrufen.";
    shortcuts: "Keys: / search, g o overview, g c callbacks, g d destinations, t theme, ? this help", "Tasten: / Suche, g o Übersicht, g c Callbacks, g d Ziele, t Farben, ? diese Hilfe";
    state_ok: "ok", "ok";
    state_open: "down", "gestört";
    state_failing: "failing", "scheitert";
    state_held: "held", "zurückgehalten";
    state_paused: "paused", "angehalten";
}
