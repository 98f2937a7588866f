-- The first schema. `@schema@` is replaced with the schema's quoted name.
--
-- Every write of the service is one call of a function, so that no lock waits for a client that hangs. A
-- later version adds functions with a new suffix, so that two versions of the service can run at once. Times
-- are milliseconds since 1970. Untrusted texts are bytea, because text cannot contain U+0000.

CREATE TABLE @schema@.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    -- The lowest version whose services can use this schema, together with newer services.
    oldest integer NOT NULL DEFAULT 1,
    -- The key of the ids.
    salt bytea NOT NULL,
    -- An import has begun and not ended.
    importing boolean NOT NULL,
    -- The server's timeline when ids were last derived from the clock.
    timeline text
);

CREATE SEQUENCE @schema@.seq CACHE 1;

CREATE TABLE @schema@.destination (
    queue bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    hold_until bigint NOT NULL DEFAULT 0,
    paused_at bigint,
    resumed_at bigint NOT NULL DEFAULT 0,
    -- The breaker, as its owner last stored it.
    open_since bigint,
    probe_at bigint
) WITH (fillfactor = 70);

-- A callback as it was accepted. It is never updated.
CREATE TABLE @schema@.callback (
    seq bigint PRIMARY KEY,
    queue bigint NOT NULL,
    job bytea NOT NULL,
    directory bytea NOT NULL,
    event_id bytea,
    created_at bigint NOT NULL,
    accepted bytea NOT NULL
);
CREATE INDEX callback_job ON @schema@.callback (job, seq);
CREATE INDEX callback_directory ON @schema@.callback (directory, seq);
CREATE UNIQUE INDEX callback_event ON @schema@.callback (event_id) WHERE event_id IS NOT NULL;

-- The progress of a callback. status: 0 pending, 1 delivered, 2 failed. readiness of a pending callback: 0
-- fresh, 1 scheduled, 2 blocked; 0 and 1 are active.
CREATE TABLE @schema@.progress (
    seq bigint PRIMARY KEY,
    queue bigint NOT NULL,
    job bytea NOT NULL,
    status smallint NOT NULL,
    readiness smallint,
    due bigint NOT NULL,
    attempts integer NOT NULL,
    budget_attempts integer NOT NULL,
    budget_since bigint NOT NULL,
    replays integer NOT NULL,
    ended_at bigint,
    error_kind smallint,
    last_error bytea,
    last_attempt bytea,
    CHECK ((status = 0) = (readiness IS NOT NULL)),
    CHECK ((status = 0) = (ended_at IS NULL))
) WITH (fillfactor = 85);
-- The order of delivery.
CREATE INDEX progress_due ON @schema@.progress (queue, due, seq) WHERE readiness < 2;
-- The order of a job, of whose pending callbacks at most one is active.
CREATE UNIQUE INDEX progress_active ON @schema@.progress (job) WHERE readiness < 2;
CREATE INDEX progress_blocked ON @schema@.progress (job, seq) WHERE readiness = 2;
-- Listings.
CREATE INDEX progress_status ON @schema@.progress (status, seq);
CREATE INDEX progress_queue ON @schema@.progress (queue, status, seq);
-- Expiry and purge.
CREATE INDEX progress_age ON @schema@.progress (queue, budget_since, seq) WHERE status = 0;
CREATE INDEX progress_ended ON @schema@.progress (status, ended_at, seq) WHERE status > 0;

-- The attempts before the last one.
CREATE TABLE @schema@.attempt (
    seq bigint NOT NULL,
    number integer NOT NULL,
    attempt bytea NOT NULL,
    PRIMARY KEY (seq, number)
);

-- The instances that use the schema, one row for each data directory.
CREATE TABLE @schema@.instance (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node text NOT NULL UNIQUE,
    name text NOT NULL,
    seen_at bigint NOT NULL
) WITH (fillfactor = 10);

-- A shard is a part of the destinations: those with the same last bits of their queue. It belongs to the
-- session that holds its advisory lock. The row records the last owner, and whether the shard was released in
-- order.
CREATE TABLE @schema@.shard (
    id integer PRIMARY KEY,
    owner integer REFERENCES @schema@.instance,
    clean boolean NOT NULL DEFAULT true
) WITH (fillfactor = 10);
INSERT INTO @schema@.shard (id) SELECT generate_series(0, 63);

-- The results of the last call of each instance, by the token of the call, so that a call whose answer was
-- lost can be repeated.
CREATE TABLE @schema@.stored (
    token bigint PRIMARY KEY,
    stored_at bigint NOT NULL,
    -- Null for duplicates.
    seqs bigint[] NOT NULL
);

-- Questions of instances to the owners of shards, and the answers.
CREATE TABLE @schema@.asked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard integer NOT NULL,
    asked_at bigint NOT NULL,
    question bytea NOT NULL,
    answer bytea
);

-- Counters. Each instance has its own rows, so that instances do not wait for each other. A row is updated
-- for one period; then another one replaces it. While a snapshot is held open, PostgreSQL cannot remove old
-- versions, and a look-up by key passes over all of them. So a look-up reads only the newest period, which is
-- first in the index and has few versions.
CREATE TABLE @schema@.tally (
    queue bigint NOT NULL,
    slot integer NOT NULL,
    period bigint NOT NULL,
    pending bigint NOT NULL,
    failed bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX tally_newest ON @schema@.tally (queue, slot, period DESC);
CREATE TABLE @schema@.total (
    slot integer NOT NULL,
    period bigint NOT NULL,
    pending bigint NOT NULL,
    delivered bigint NOT NULL,
    failed bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX total_newest ON @schema@.total (slot, period DESC);

-- Failures since the last notice about a destination, by kind of error. Each instance has its own rows.
CREATE TABLE @schema@.failure_window (
    queue bigint NOT NULL,
    slot integer NOT NULL,
    since bigint NOT NULL,
    kind smallint NOT NULL,
    name text COLLATE "C" NOT NULL,
    failed bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    error bytea,
    PRIMARY KEY (queue, slot, since, kind)
) WITH (fillfactor = 50);

-- Continues the ids at the clock if the server has another timeline: a promoted standby may not have received
-- the last ones, and must not assign them again.
CREATE FUNCTION @schema@.begin_v1() RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_timeline text := left(pg_walfile_name(pg_current_wal_lsn()), 8);
BEGIN
    IF EXISTS (SELECT FROM @schema@.meta WHERE timeline IS DISTINCT FROM v_timeline) THEN
        PERFORM setval('@schema@.seq', greatest((SELECT last_value FROM @schema@.seq),
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
        FROM @schema@.meta WHERE timeline IS NOT NULL;
        UPDATE @schema@.meta SET timeline = v_timeline;
    END IF;
END
$body$;

-- Prevents the removal of destinations until the end of the call.
CREATE FUNCTION @schema@.keep_destinations_v1() RETURNS void LANGUAGE sql AS $body$
    SELECT pg_advisory_xact_lock_shared('@schema@.meta'::regclass::oid::bigint);
$body$;

-- Removes destinations without callbacks (among some that are chosen at random), calls that are no longer
-- repeated, and instances that were last seen before p_before, whose counters are added to those without an
-- instance. p_class and p_first: the keys of the locks of identities.
CREATE FUNCTION @schema@.forget_v1(p_now bigint, p_before bigint, p_class integer, p_first integer)
RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_gone integer[];
    v_from bigint := hashtextextended(clock_timestamp()::text, 0);
    v_idle bigint[];
BEGIN
    -- Another instance is doing this, or callbacks are being stored: skip it this time.
    IF NOT pg_try_advisory_xact_lock('@schema@.meta'::regclass::oid::bigint) THEN
        RETURN;
    END IF;
    DELETE FROM @schema@.stored WHERE stored_at < p_now - 3600000;
    v_idle := (SELECT array_agg(d.queue) FROM (
            (SELECT * FROM @schema@.destination WHERE queue >= v_from ORDER BY queue LIMIT 10000)
            UNION ALL (SELECT * FROM @schema@.destination WHERE queue < v_from ORDER BY queue LIMIT 10000)) AS d
        WHERE d.paused_at IS NULL AND d.hold_until < p_now
            AND NOT EXISTS (SELECT FROM @schema@.progress p WHERE p.queue = d.queue));
    IF v_idle IS NOT NULL THEN
        DELETE FROM @schema@.destination WHERE queue = ANY (v_idle);
        DELETE FROM @schema@.tally WHERE queue = ANY (v_idle);
    END IF;
    v_gone := (SELECT array_agg(id) FROM (
        SELECT id FROM @schema@.instance WHERE seen_at < p_before ORDER BY id) AS it
        WHERE pg_try_advisory_xact_lock(p_class, p_first + id));
    IF v_gone IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO @schema@.tally AS t (queue, slot, period, pending, failed)
    SELECT queue, 0, 0, sum(pending), sum(failed) FROM @schema@.tally WHERE slot = ANY (v_gone) GROUP BY queue
    ON CONFLICT (queue, slot, period) DO UPDATE
        SET pending = t.pending + excluded.pending, failed = t.failed + excluded.failed;
    DELETE FROM @schema@.tally WHERE slot = ANY (v_gone);
    INSERT INTO @schema@.total AS t (slot, period, pending, delivered, failed)
    SELECT 0, 0, sum(pending), sum(delivered), sum(failed) FROM @schema@.total WHERE slot = ANY (v_gone)
    HAVING count(*) > 0
    ON CONFLICT (slot, period) DO UPDATE SET pending = t.pending + excluded.pending,
        delivered = t.delivered + excluded.delivered, failed = t.failed + excluded.failed;
    DELETE FROM @schema@.total WHERE slot = ANY (v_gone);
    UPDATE @schema@.shard SET owner = NULL WHERE owner = ANY (v_gone) AND clean;
    DELETE FROM @schema@.instance i
    WHERE i.id = ANY (v_gone) AND NOT EXISTS (SELECT FROM @schema@.shard s WHERE s.owner = i.id);
END
$body$;

-- Locks jobs until the end of the call, in the same order for every caller. Later statements see what earlier
-- calls have committed, so every job with pending callbacks has an active one.
CREATE FUNCTION @schema@.lock_jobs_v1(p_jobs bytea[]) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_advisory_xact_lock(it.key)
    FROM (SELECT DISTINCT hashtextextended(encode(job, 'hex'), '@schema@.meta'::regclass::oid::bigint) AS key
          FROM unnest(p_jobs) AS job ORDER BY 1) AS it;
END
$body$;

-- Adds to the counters of an instance.
CREATE FUNCTION @schema@.count_v1(
    p_slot integer, p_queues bigint[], p_pending bigint[], p_delivered bigint[], p_failed bigint[]
) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    -- A quarter of a second.
    v_period bigint := (extract(epoch FROM clock_timestamp()) * 4)::bigint;
    v_newest @schema@.total;
BEGIN
    -- A call of the previous session may not have ended yet.
    PERFORM pg_advisory_xact_lock(('@schema@.total'::regclass::oid::bigint << 32) + p_slot);
    WITH newest AS (
        SELECT it.queue, it.pending + coalesce(t.pending, 0) AS pending, it.failed + coalesce(t.failed, 0) AS failed,
            t.period AS before, greatest(t.period, v_period) AS period
        FROM (SELECT queue, sum(pending) AS pending, sum(failed) AS failed
            FROM unnest(p_queues, p_pending, p_failed) AS it (queue, pending, failed) GROUP BY queue
            HAVING sum(abs(pending)) > 0 OR sum(abs(failed)) > 0) AS it
        LEFT JOIN LATERAL (SELECT * FROM @schema@.tally t WHERE t.queue = it.queue AND t.slot = p_slot
            ORDER BY period DESC LIMIT 1) AS t ON true
    ), replaced AS (
        DELETE FROM @schema@.tally t USING newest n
        WHERE n.before < n.period AND t.queue = n.queue AND t.slot = p_slot AND t.period = n.before
    )
    INSERT INTO @schema@.tally (queue, slot, period, pending, failed)
    SELECT queue, p_slot, period, pending, failed FROM newest ORDER BY queue
    ON CONFLICT (queue, slot, period) DO UPDATE SET pending = excluded.pending, failed = excluded.failed;

    SELECT * INTO v_newest FROM @schema@.total t WHERE t.slot = p_slot ORDER BY period DESC LIMIT 1;
    DELETE FROM @schema@.total t WHERE t.slot = p_slot AND t.period = v_newest.period AND t.period < v_period;
    INSERT INTO @schema@.total (slot, period, pending, delivered, failed)
    SELECT p_slot, greatest(v_newest.period, v_period), sum(it.pending) + coalesce(v_newest.pending, 0),
        sum(it.delivered) + coalesce(v_newest.delivered, 0), sum(it.failed) + coalesce(v_newest.failed, 0)
    FROM unnest(p_pending, p_delivered, p_failed) AS it (pending, delivered, failed)
    HAVING count(*) > 0
    ON CONFLICT (slot, period) DO UPDATE
        SET pending = excluded.pending, delivered = excluded.delivered, failed = excluded.failed;
END
$body$;

-- Counts callbacks that have failed in the window of their destination, if the session has a length for it.
-- Notices and cancelled callbacks (kind 10) are not counted.
CREATE FUNCTION @schema@.note_failures_v1(
    p_now bigint, p_slot integer, p_seqs bigint[], p_queues bigint[], p_kinds smallint[], p_errors bytea[]
) RETURNS void LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_window bigint := nullif(current_setting('urlcallback.notify_window', true), '')::bigint;
BEGIN
    IF v_window IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO @schema@.failure_window AS w (queue, slot, since, kind, name, failed, first_seq, last_seq, error)
    SELECT it.queue, p_slot, coalesce((SELECT max(o.since) FROM @schema@.failure_window o
            WHERE o.queue = it.queue AND o.slot = p_slot AND o.since > p_now - v_window AND o.since <= p_now), p_now),
        it.kind, d.name, count(*), min(it.seq), max(it.seq), (array_agg(it.error ORDER BY it.seq DESC))[1]
    FROM unnest(p_seqs, p_queues, p_kinds, p_errors) AS it (seq, queue, kind, error)
    JOIN @schema@.destination d ON d.queue = it.queue
    WHERE it.kind <> 10 AND NOT starts_with(d.name, 'notify://')
    GROUP BY it.queue, it.kind, d.name ORDER BY it.queue, it.kind
    ON CONFLICT (queue, slot, since, kind) DO UPDATE SET failed = w.failed + excluded.failed,
        first_seq = least(w.first_seq, excluded.first_seq), last_seq = greatest(w.last_seq, excluded.last_seq),
        error = excluded.error;
END
$body$;

-- The slots that have counters. Reads one row of each, and no replaced ones.
CREATE FUNCTION @schema@.slots_v1() RETURNS integer[] LANGUAGE plpgsql STABLE AS $body$
DECLARE
    v_slots integer[] := '{}';
    v_slot integer := -1;
BEGIN
    LOOP
        SELECT slot INTO v_slot FROM @schema@.total WHERE slot > v_slot ORDER BY slot, period DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_slots := v_slots || v_slot;
    END LOOP;
    RETURN v_slots;
END
$body$;

-- The numbers of pending callbacks, and of failed ones that are stored.
CREATE FUNCTION @schema@.totals_v1(OUT pending bigint, OUT failed bigint) LANGUAGE sql STABLE AS $body$
    SELECT coalesce(sum(t.pending), 0)::bigint, coalesce(sum(t.failed), 0)::bigint
    FROM unnest(@schema@.slots_v1()) AS s (slot)
    CROSS JOIN LATERAL (SELECT * FROM @schema@.total t WHERE t.slot = s.slot ORDER BY period DESC LIMIT 1) AS t;
$body$;

-- Stores new callbacks in the order of the arrays. p_token identifies the call: with the token of an earlier
-- call, nothing is stored again, and the outcomes are the same. A call without a token, or with the token
-- p_answered, is not repeated. p_given: the seq of a callback, if it has one already. p_about: the callback
-- whose outcome an outcome event reports; the event is not stored unless that callback has ended. p_refused:
-- the kind of error of a callback that can never be sent. The outcome of each: 0 stored, 1 a duplicate, 2 not
-- kept. Or a single row, and nothing is stored: 3 there is no room (seq: the number of pending callbacks), 4
-- each one must be stored by itself.
CREATE FUNCTION @schema@.enqueue_v1(
    p_now bigint, p_slot integer, p_max bigint, p_events bytea[], p_jobs bytea[], p_directories bytea[],
    p_queues bigint[], p_names text[], p_refused smallint[], p_errors bytea[], p_accepted bytea[], p_token bigint,
    p_answered bigint, p_given bigint[], p_about bigint[]
) RETURNS TABLE (ord bigint, outcome integer, seq bigint, queue bigint, readiness smallint)
LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_pending bigint;
    v_failed bigint;
    v_wanted bigint;
    v_refused bigint := (SELECT count(*) FROM unnest(p_refused) AS kind WHERE kind IS NOT NULL);
    v_seqs bigint[];
    v_stored bigint[];
    v_readiness smallint[];
BEGIN
    SELECT s.seqs INTO v_seqs FROM @schema@.stored s WHERE s.token = p_token;
    IF FOUND THEN
        RETURN QUERY
        SELECT it.ord, CASE WHEN it.seq IS NULL THEN 1 ELSE 0 END, coalesce(it.seq, c.seq), coalesce(c.queue, it.queue),
            p.readiness
        FROM unnest(v_seqs, p_queues, p_events) WITH ORDINALITY AS it (seq, queue, event, ord)
        LEFT JOIN LATERAL (
            SELECT c.seq, c.queue FROM @schema@.callback c WHERE it.seq IS NULL AND c.event_id = it.event) AS c ON true
        LEFT JOIN LATERAL (SELECT p.readiness FROM @schema@.progress p WHERE p.seq = it.seq) AS p ON true
        ORDER BY it.ord;
        RETURN;
    END IF;
    PERFORM @schema@.keep_destinations_v1();
    PERFORM @schema@.lock_jobs_v1(p_jobs);
    -- A purge waits, so that the id of a duplicate exists.
    PERFORM FROM @schema@.callback c WHERE c.event_id = ANY (p_events) ORDER BY c.seq FOR KEY SHARE;
    SELECT pending, failed INTO v_pending, v_failed FROM @schema@.totals_v1();
    IF v_refused > 0 AND v_failed + v_refused > p_max THEN
        IF cardinality(p_jobs) > 1 THEN
            RETURN QUERY SELECT 0::bigint, 4, 0::bigint, 0::bigint, 0::smallint;
            RETURN;
        ELSIF NOT EXISTS (SELECT FROM @schema@.callback c WHERE c.event_id = p_events[1]) THEN
            RETURN QUERY SELECT 1::bigint, 2, 0::bigint, 0::bigint, 0::smallint;
            RETURN;
        END IF;
    END IF;
    IF v_pending + cardinality(p_jobs) > p_max THEN
        -- Duplicates are always answered, and callbacks that can never be sent are not pending.
        SELECT count(*) INTO v_wanted FROM (
            SELECT kind, row_number() OVER (PARTITION BY event ORDER BY ord) AS place, event
            FROM unnest(p_events, p_refused) WITH ORDINALITY AS it (event, kind, ord)
        ) AS it
        WHERE it.kind IS NULL AND (it.event IS NULL OR (it.place = 1
            AND NOT EXISTS (SELECT FROM @schema@.callback c WHERE c.event_id = it.event)));
        IF v_wanted > 0 AND v_pending + v_wanted > p_max THEN
            RETURN QUERY SELECT 0::bigint, 3, v_pending, 0::bigint, 0::smallint;
            RETURN;
        END IF;
    END IF;

    INSERT INTO @schema@.destination (queue, name)
    SELECT DISTINCT it.queue, it.name FROM unnest(p_queues, p_names) AS it (queue, name)
    WHERE NOT EXISTS (SELECT FROM @schema@.destination d WHERE d.queue = it.queue)
    ORDER BY it.queue ON CONFLICT DO NOTHING;

    -- From here on, all arrays are unnested together: a join of two of them would be quadratic. The seq of a
    -- duplicate is null.
    IF num_nonnulls(VARIADIC p_events) = 0 THEN
        v_seqs := (SELECT array_agg(coalesce(given, nextval('@schema@.seq')))
            FROM unnest(p_jobs, p_given) AS it (job, given));
    ELSE
        v_seqs := (SELECT array_agg(CASE WHEN is_new THEN coalesce(given, nextval('@schema@.seq')) END) FROM (
            SELECT it.given, it.event IS NULL OR (it.place = 1
                AND NOT EXISTS (SELECT FROM @schema@.callback c WHERE c.event_id = it.event)
                AND (it.about IS NULL OR EXISTS (
                    SELECT FROM @schema@.progress p WHERE p.seq = it.about AND p.status > 0))) AS is_new
            FROM (SELECT event, given, about, ord, row_number() OVER (PARTITION BY event ORDER BY ord) AS place
                  FROM unnest(p_events, p_given, p_about) WITH ORDINALITY AS it (event, given, about, ord)) AS it
            ORDER BY it.ord) AS it);
    END IF;
    WITH stored AS (
        INSERT INTO @schema@.callback (seq, queue, job, directory, event_id, created_at, accepted)
        SELECT seq, queue, job, directory, event, p_now, accepted
        FROM unnest(v_seqs, p_queues, p_jobs, p_directories, p_events, p_accepted)
            AS it (seq, queue, job, directory, event, accepted)
        WHERE seq IS NOT NULL
        ON CONFLICT (event_id) WHERE event_id IS NOT NULL DO NOTHING
        RETURNING seq
    )
    SELECT array_agg(seq) INTO v_stored FROM stored;
    IF coalesce(cardinality(v_stored), 0) < num_nonnulls(VARIADIC v_seqs) THEN
        -- Another call has stored some of the events first.
        v_seqs := (SELECT array_agg(CASE WHEN seq = ANY (v_stored) THEN seq END ORDER BY ord)
            FROM unnest(v_seqs) WITH ORDINALITY AS it (seq, ord));
    END IF;
    -- The first callback of a job becomes active immediately if nothing is pending.
    v_readiness := (SELECT array_agg(CASE WHEN seq IS NULL OR kind IS NOT NULL THEN NULL
            WHEN place = 1 AND NOT EXISTS (SELECT FROM @schema@.progress p WHERE p.job = it.job AND p.readiness < 2)
                AND NOT EXISTS (SELECT FROM @schema@.progress p WHERE p.job = it.job AND p.readiness = 2)
            THEN 0 ELSE 2 END::smallint ORDER BY ord)
        FROM (SELECT seq, job, kind, ord,
                row_number() OVER (PARTITION BY job, seq IS NULL OR kind IS NOT NULL ORDER BY ord) AS place
            FROM unnest(v_seqs, p_jobs, p_refused) WITH ORDINALITY AS it (seq, job, kind, ord)) AS it);
    INSERT INTO @schema@.progress (seq, queue, job, status, readiness, due, attempts, budget_attempts,
        budget_since, replays, ended_at, error_kind, last_error)
    SELECT seq, queue, job, CASE WHEN kind IS NULL THEN 0 ELSE 2 END, readiness, p_now, 0, 0, p_now, 0,
        CASE WHEN kind IS NOT NULL THEN p_now END, kind, error
    FROM unnest(v_seqs, p_queues, p_jobs, v_readiness, p_refused, p_errors)
        AS it (seq, queue, job, readiness, kind, error)
    WHERE seq IS NOT NULL;

    PERFORM @schema@.count_v1(p_slot, array_agg(queue), array_agg((readiness IS NOT NULL)::int::bigint),
        array_agg(0::bigint), array_agg((readiness IS NULL)::int::bigint))
    FROM unnest(v_seqs, p_queues, v_readiness) AS it (seq, queue, readiness)
    WHERE seq IS NOT NULL HAVING count(*) > 0;
    IF v_refused > 0 THEN
        PERFORM @schema@.note_failures_v1(p_now, p_slot, array_agg(seq), array_agg(queue), array_agg(kind), array_agg(error))
        FROM unnest(v_seqs, p_queues, p_refused, p_errors) AS it (seq, queue, kind, error)
        WHERE seq IS NOT NULL AND kind IS NOT NULL HAVING count(*) > 0;
    END IF;
    DELETE FROM @schema@.stored WHERE token = p_answered;
    IF p_token IS NOT NULL THEN
        INSERT INTO @schema@.stored (token, stored_at, seqs) VALUES (p_token, p_now, coalesce(v_seqs, '{}'));
    END IF;

    RETURN QUERY
    SELECT it.ord, CASE WHEN it.seq IS NULL THEN 1 ELSE 0 END, coalesce(it.seq, c.seq), coalesce(c.queue, it.queue),
        it.readiness
    FROM unnest(v_seqs, p_queues, v_readiness, p_events) WITH ORDINALITY AS it (seq, queue, readiness, event, ord)
    LEFT JOIN LATERAL (
        SELECT c.seq, c.queue FROM @schema@.callback c WHERE it.seq IS NULL AND c.event_id = it.event) AS c ON true
    ORDER BY it.ord;
END
$body$;

-- Activates the first pending callback of each of these jobs, which have no active one. It is due at p_now or
-- later, or, if it is in p_settled, at its exact time.
CREATE FUNCTION @schema@.activate_v1(p_now bigint, p_jobs bytea[], p_settled bigint[])
RETURNS SETOF bigint LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY
    UPDATE @schema@.progress p
    SET readiness = 1, due = CASE WHEN p.seq = ANY (p_settled) THEN p.due ELSE greatest(p.due, p_now) END
    FROM (SELECT DISTINCT job FROM unnest(p_jobs) AS job) AS j
    CROSS JOIN LATERAL (
        SELECT f.seq FROM @schema@.progress f WHERE f.job = j.job AND f.readiness = 2 ORDER BY f.seq LIMIT 1
    ) AS first
    WHERE p.seq = first.seq AND p.readiness = 2
        AND NOT EXISTS (SELECT FROM @schema@.progress a WHERE a.job = j.job AND a.readiness < 2)
    RETURNING p.seq;
END
$body$;

-- Records outcomes of claimed callbacks. p_status: 0 to be retried at p_due. p_holds: until when the
-- destination is held. p_previous: the previous attempt. Returns the callbacks that are active now, and one
-- row with seq null for each destination of them without pending callbacks.
CREATE FUNCTION @schema@.settle_v1(
    p_now bigint, p_slot integer, p_kept integer, p_seqs bigint[], p_queues bigint[], p_status smallint[],
    p_due bigint[], p_attempts integer[], p_budget_attempts integer[], p_budget_since bigint[],
    p_kinds smallint[], p_errors bytea[], p_last bytea[], p_previous bytea[], p_holds bigint[]
) RETURNS TABLE (seq bigint, queue bigint) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_jobs bytea[] := (SELECT array_agg(job) FROM @schema@.progress WHERE seq = ANY (p_seqs));
    v_queues bigint[];
    v_status smallint[];
    v_failed bigint[];
BEGIN
    PERFORM @schema@.lock_jobs_v1(v_jobs);
    -- A call that is repeated after the connection broke must change nothing again.
    WITH changed AS (
        UPDATE @schema@.progress p
        SET status = s.status, readiness = CASE WHEN s.status = 0 THEN 2 END, due = s.due, attempts = s.attempts,
            budget_attempts = s.budget_attempts, budget_since = s.budget_since,
            ended_at = CASE WHEN s.status > 0 THEN p_now END, error_kind = s.kind, last_error = s.error,
            last_attempt = s.last
        FROM unnest(p_seqs, p_status, p_due, p_attempts, p_budget_attempts, p_budget_since, p_kinds, p_errors, p_last)
            AS s (seq, status, due, attempts, budget_attempts, budget_since, kind, error, last)
        WHERE p.seq = s.seq AND p.status = 0 AND NOT (s.status = 0 AND p.attempts >= s.attempts)
        RETURNING p.seq, p.queue, s.status
    )
    SELECT array_agg(queue), array_agg(status), array_agg(seq) FILTER (WHERE status = 2)
    INTO v_queues, v_status, v_failed FROM changed;
    IF array_position(p_status, 0::smallint) IS NOT NULL OR EXISTS (SELECT FROM unnest(p_previous) AS it WHERE it IS NOT NULL) THEN
        INSERT INTO @schema@.attempt (seq, number, attempt)
        SELECT s.seq, s.attempts - 1, s.previous FROM unnest(p_seqs, p_attempts, p_previous) AS s (seq, attempts, previous)
        WHERE s.previous IS NOT NULL ON CONFLICT DO NOTHING;
        DELETE FROM @schema@.attempt a USING unnest(p_seqs, p_attempts) AS s (seq, attempts)
        WHERE a.seq = s.seq AND a.number = s.attempts - 1 - p_kept AND s.attempts > p_kept;
    END IF;
    UPDATE @schema@.destination d SET hold_until = h.until
    FROM (SELECT queue, max(until) AS until FROM unnest(p_queues, p_holds) AS s (queue, until)
          WHERE until IS NOT NULL GROUP BY queue) AS h
    WHERE d.queue = h.queue;
    PERFORM @schema@.count_v1(p_slot, array_agg(s.queue), array_agg(-(s.status > 0)::int::bigint),
        array_agg((s.status = 1)::int::bigint), array_agg((s.status = 2)::int::bigint))
    FROM unnest(v_queues, v_status) AS s (queue, status) HAVING count(*) > 0;
    IF v_failed IS NOT NULL THEN
        PERFORM @schema@.note_failures_v1(p_now, p_slot, array_agg(s.seq), array_agg(s.queue), array_agg(s.kind), array_agg(s.error))
        FROM unnest(p_seqs, p_queues, p_kinds, p_errors) AS s (seq, queue, kind, error) WHERE s.seq = ANY (v_failed);
    END IF;
    RETURN QUERY
    SELECT p.seq, p.queue FROM @schema@.activate_v1(p_now, v_jobs, p_seqs) AS a JOIN @schema@.progress p ON p.seq = a;
    RETURN QUERY
    SELECT NULL::bigint, it.queue FROM (SELECT DISTINCT queue FROM unnest(p_queues) AS it (queue)) AS it
    CROSS JOIN unnest(@schema@.slots_v1()) AS s (slot)
    CROSS JOIN LATERAL (SELECT t.pending FROM @schema@.tally t WHERE t.queue = it.queue AND t.slot = s.slot
        ORDER BY t.period DESC LIMIT 1) AS t
    GROUP BY it.queue HAVING sum(t.pending) = 0;
END
$body$;

-- Makes failed callbacks pending again, in order. p_claimed: the callbacks in flight. Returns the
-- destinations whose active callbacks have changed, with the number of replayed callbacks.
CREATE FUNCTION @schema@.replay_v1(
    p_now bigint, p_slot integer, p_seqs bigint[], p_queues bigint[], p_claimed bigint[]
) RETURNS TABLE (queue bigint, replayed bigint) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    it record;
    active record;
    turn boolean;
    v_queues bigint[] := '{}';
    v_replayed bigint[] := '{}';
BEGIN
    PERFORM @schema@.lock_jobs_v1((SELECT array_agg(job) FROM @schema@.progress WHERE seq = ANY (p_seqs)));
    FOR it IN
        SELECT DISTINCT p.seq, p.queue, p.job
        FROM unnest(p_seqs, p_queues) AS s (seq, queue) JOIN @schema@.progress p ON p.seq = s.seq AND p.queue = s.queue
        WHERE p.status = 2 ORDER BY p.seq
    LOOP
        SELECT p.seq, p.queue INTO active FROM @schema@.progress p WHERE p.job = it.job AND p.readiness < 2;
        turn := NOT FOUND;
        IF NOT turn AND NOT active.seq = ANY (p_claimed)
            AND active.seq > it.seq
            AND NOT EXISTS (SELECT FROM @schema@.progress p WHERE p.job = it.job AND p.readiness = 2 AND p.seq < it.seq)
        THEN
            UPDATE @schema@.progress SET readiness = 2 WHERE seq = active.seq;
            v_queues := v_queues || active.queue;
            v_replayed := v_replayed || 0::bigint;
            turn := true;
        END IF;
        UPDATE @schema@.progress
        SET status = 0, readiness = CASE WHEN turn THEN 1 ELSE 2 END, due = p_now, budget_attempts = 0,
            budget_since = p_now, replays = replays + 1, ended_at = NULL
        WHERE seq = it.seq;
        v_queues := v_queues || it.queue;
        v_replayed := v_replayed || 1::bigint;
    END LOOP;
    PERFORM @schema@.count_v1(p_slot, array_agg(s.queue), array_agg(s.replayed), array_agg(0::bigint), array_agg(-s.replayed))
    FROM unnest(v_queues, v_replayed) AS s (queue, replayed) HAVING count(*) > 0;
    RETURN QUERY SELECT s.queue, sum(s.replayed)::bigint FROM unnest(v_queues, v_replayed) AS s (queue, replayed) GROUP BY 1;
END
$body$;

-- Fails pending callbacks that are not in flight. The outcome of each: 0 done, 1 in flight, 2 not pending, 3
-- unknown. And one row without an outcome for each destination with a newly active callback.
CREATE FUNCTION @schema@.fail_v1(
    p_now bigint, p_slot integer, p_seqs bigint[], p_queues bigint[], p_claimed bigint[], p_kind smallint, p_error bytea
) RETURNS TABLE (ord bigint, outcome integer, queue bigint) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_done bigint[];
    v_jobs bytea[];
BEGIN
    PERFORM @schema@.lock_jobs_v1((SELECT array_agg(job) FROM @schema@.progress WHERE seq = ANY (p_seqs)));
    v_done := (SELECT array_agg(DISTINCT p.seq)
        FROM unnest(p_seqs, p_queues) AS s (seq, queue) JOIN @schema@.progress p ON p.seq = s.seq AND p.queue = s.queue
        WHERE p.status = 0 AND NOT p.seq = ANY (p_claimed));
    v_jobs := (SELECT array_agg(p.job) FROM @schema@.progress p WHERE p.seq = ANY (v_done) AND p.readiness < 2);
    RETURN QUERY
    SELECT s.ord, CASE WHEN p.seq IS NULL THEN 3 WHEN p.status > 0 THEN 2
        WHEN p.seq = ANY (p_claimed) THEN 1
        WHEN row_number() OVER (PARTITION BY p.seq ORDER BY s.ord) > 1 THEN 2 ELSE 0 END, p.queue
    FROM unnest(p_seqs, p_queues) WITH ORDINALITY AS s (seq, queue, ord)
    LEFT JOIN @schema@.progress p ON p.seq = s.seq AND p.queue = s.queue ORDER BY s.ord;
    UPDATE @schema@.progress p
    SET status = 2, readiness = NULL, ended_at = p_now, error_kind = p_kind, last_error = p_error,
        budget_since = greatest(p.budget_since, d.resumed_at)
    FROM @schema@.destination d WHERE p.seq = ANY (v_done) AND d.queue = p.queue;
    PERFORM @schema@.count_v1(p_slot, array_agg(p.queue), array_agg(-1::bigint), array_agg(0::bigint), array_agg(1::bigint))
    FROM @schema@.progress p WHERE p.seq = ANY (v_done) HAVING count(*) > 0;
    PERFORM @schema@.note_failures_v1(p_now, p_slot, array_agg(p.seq), array_agg(p.queue), array_agg(p_kind), array_agg(p_error))
    FROM @schema@.progress p WHERE p.seq = ANY (v_done) HAVING count(*) > 0;
    RETURN QUERY
    SELECT NULL::bigint, NULL::integer, p.queue
    FROM @schema@.activate_v1(p_now, v_jobs, '{}') AS a JOIN @schema@.progress p ON p.seq = a;
END
$body$;

-- Makes pending callbacks due now, and ends the holds of their destinations. Returns the destinations with
-- the number of callbacks that are due now.
CREATE FUNCTION @schema@.retry_now_v1(p_now bigint, p_seqs bigint[], p_queues bigint[], p_claimed bigint[])
RETURNS TABLE (queue bigint, due bigint) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
BEGIN
    PERFORM @schema@.lock_jobs_v1((SELECT array_agg(job) FROM @schema@.progress WHERE seq = ANY (p_seqs)));
    UPDATE @schema@.destination SET hold_until = 0
    WHERE hold_until > 0 AND queue IN (
        SELECT p.queue FROM unnest(p_seqs, p_queues) AS s (seq, queue)
        JOIN @schema@.progress p ON p.seq = s.seq AND p.queue = s.queue WHERE p.status = 0);
    UPDATE @schema@.progress p SET due = p_now
    FROM unnest(p_seqs, p_queues) AS s (seq, queue)
    WHERE p.seq = s.seq AND p.queue = s.queue AND p.status = 0 AND p.due > p_now AND p.readiness > 0
        AND NOT p.seq = ANY (p_claimed);
    RETURN QUERY
    SELECT p.queue, count(*) FILTER (WHERE p.readiness < 2 AND d.paused_at IS NULL AND NOT p.seq = ANY (p_claimed))
    FROM unnest(p_seqs, p_queues) AS s (seq, queue)
    JOIN @schema@.progress p ON p.seq = s.seq AND p.queue = s.queue
    JOIN @schema@.destination d ON d.queue = p.queue
    WHERE p.status = 0 GROUP BY p.queue;
END
$body$;

-- Pauses or resumes a destination. Returns whether that changes anything.
CREATE FUNCTION @schema@.pause_v1(p_now bigint, p_queue bigint, p_name text, p_paused boolean)
RETURNS boolean LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM @schema@.keep_destinations_v1();
    INSERT INTO @schema@.destination (queue, name) VALUES (p_queue, p_name) ON CONFLICT DO NOTHING;
    UPDATE @schema@.destination
    SET paused_at = CASE WHEN p_paused THEN p_now END,
        resumed_at = CASE WHEN p_paused THEN resumed_at ELSE p_now END
    WHERE queue = p_queue AND (paused_at IS NOT NULL) <> p_paused;
    RETURN FOUND;
END
$body$;

-- Removes ended callbacks whose retention is over, at most p_limit, and returns their number.
CREATE FUNCTION @schema@.purge_v1(p_slot integer, p_delivered bigint, p_failed bigint, p_limit integer)
RETURNS bigint LANGUAGE plpgsql AS $body$
DECLARE
    v_seqs bigint[];
BEGIN
    v_seqs := (SELECT array_agg(it.seq) FROM (
        (SELECT seq FROM @schema@.progress WHERE status = 1 AND ended_at <= p_delivered ORDER BY ended_at, seq LIMIT p_limit)
        UNION ALL
        (SELECT seq FROM @schema@.progress WHERE status = 2 AND ended_at <= p_failed ORDER BY ended_at, seq LIMIT p_limit)
        LIMIT p_limit) AS it);
    IF v_seqs IS NULL THEN
        RETURN 0;
    END IF;
    -- A replay may have changed one of them since.
    v_seqs := (SELECT array_agg(it.seq) FROM (
        SELECT seq FROM @schema@.progress WHERE seq = ANY (v_seqs) AND status > 0
            AND ended_at <= CASE status WHEN 1 THEN p_delivered ELSE p_failed END
        ORDER BY seq FOR UPDATE) AS it);
    PERFORM @schema@.count_v1(p_slot, array_agg(queue), array_agg(0::bigint), array_agg(-(status = 1)::int::bigint),
        array_agg(-(status = 2)::int::bigint))
    FROM @schema@.progress WHERE seq = ANY (v_seqs) HAVING count(*) > 0;
    DELETE FROM @schema@.attempt WHERE seq = ANY (v_seqs);
    DELETE FROM @schema@.progress WHERE seq = ANY (v_seqs);
    DELETE FROM @schema@.callback WHERE seq = ANY (v_seqs);
    RETURN coalesce(cardinality(v_seqs), 0);
END
$body$;

-- Repairs jobs that have blocked callbacks and no active one, among p_limit jobs after p_after. Returns the
-- last job, the number of jobs that were checked, and the destination of each job that was repaired.
CREATE FUNCTION @schema@.mend_v1(p_now bigint, p_after bytea, p_limit integer)
RETURNS TABLE (last bytea, looked_at bigint, queues bigint[]) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_jobs bytea[];
    v_mended bigint[] := '{}';
BEGIN
    v_jobs := (SELECT array_agg(it.job ORDER BY it.job) FROM (
        SELECT DISTINCT job FROM @schema@.progress WHERE readiness = 2 AND job > p_after ORDER BY job LIMIT p_limit) AS it);
    IF EXISTS (SELECT FROM unnest(v_jobs) AS j WHERE NOT EXISTS (
        SELECT FROM @schema@.progress a WHERE a.job = j AND a.readiness < 2))
    THEN
        PERFORM @schema@.lock_jobs_v1(v_jobs);
        v_mended := (SELECT coalesce(array_agg(p.queue), '{}')
            FROM @schema@.activate_v1(p_now, v_jobs, '{}') AS a JOIN @schema@.progress p ON p.seq = a);
    END IF;
    RETURN QUERY SELECT v_jobs[cardinality(v_jobs)], coalesce(cardinality(v_jobs), 0)::bigint, v_mended;
END
$body$;

-- Stores exported callbacks under their seqs, where no newer version is stored, and returns how many.
CREATE FUNCTION @schema@.import_v1(
    p_now bigint, p_slot integer, p_seqs bigint[], p_queues bigint[], p_names text[], p_jobs bytea[],
    p_directories bytea[], p_events bytea[], p_created bigint[], p_accepted bytea[], p_status smallint[],
    p_readiness smallint[], p_due bigint[], p_attempts integer[], p_budget_attempts integer[],
    p_budget_since bigint[], p_replays integer[], p_ended bigint[], p_kinds smallint[], p_errors bytea[],
    p_last bytea[], p_attempt_seqs bigint[], p_attempt_numbers integer[], p_attempt_rows bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $body$
DECLARE
    it record;
    known record;
    v_new bigint := 0;
    v_ready smallint;
BEGIN
    PERFORM @schema@.keep_destinations_v1();
    PERFORM @schema@.lock_jobs_v1(p_jobs);
    FOR it IN
        SELECT * FROM unnest(p_seqs, p_queues, p_names, p_jobs, p_directories, p_events, p_created, p_accepted, p_status,
            p_readiness, p_due, p_attempts, p_budget_attempts, p_budget_since, p_replays, p_ended, p_kinds, p_errors, p_last)
            AS s (seq, queue, name, job, directory, event_id, created_at, accepted, status, readiness, due, attempts,
                budget_attempts, budget_since, replays, ended_at, kind, error, last)
    LOOP
        SELECT * INTO known FROM @schema@.progress p WHERE p.seq = it.seq;
        IF FOUND THEN
            CONTINUE WHEN (known.replays, known.attempts, known.status > 0) >= (it.replays, it.attempts, it.status > 0);
            DELETE FROM @schema@.attempt a WHERE a.seq = it.seq;
            DELETE FROM @schema@.progress p WHERE p.seq = it.seq;
            DELETE FROM @schema@.callback c WHERE c.seq = it.seq;
            PERFORM @schema@.count_v1(p_slot, ARRAY[known.queue], ARRAY[-(known.status = 0)::int::bigint],
                ARRAY[-(known.status = 1)::int::bigint], ARRAY[-(known.status = 2)::int::bigint]);
            IF known.readiness < 2 THEN
                PERFORM @schema@.activate_v1(p_now, ARRAY[known.job], '{}');
            END IF;
        END IF;
        INSERT INTO @schema@.destination (queue, name) VALUES (it.queue, it.name) ON CONFLICT DO NOTHING;
        -- The newer of two callbacks with one key keeps it, as in the other store.
        UPDATE @schema@.callback c SET event_id = NULL WHERE c.event_id = it.event_id;
        INSERT INTO @schema@.callback (seq, queue, job, directory, event_id, created_at, accepted)
        VALUES (it.seq, it.queue, it.job, it.directory, it.event_id, it.created_at, it.accepted);
        v_ready := it.readiness;
        IF it.status = 0 THEN
            IF EXISTS (SELECT FROM @schema@.progress p WHERE p.job = it.job AND p.readiness < 2 AND p.seq < it.seq)
                OR EXISTS (SELECT FROM @schema@.progress p WHERE p.job = it.job AND p.readiness = 2 AND p.seq < it.seq)
            THEN
                v_ready := 2;
            ELSE
                UPDATE @schema@.progress p SET readiness = 2 WHERE p.job = it.job AND p.readiness < 2;
                v_ready := CASE WHEN v_ready = 2 THEN 1 ELSE v_ready END;
            END IF;
        END IF;
        INSERT INTO @schema@.progress (seq, queue, job, status, readiness, due, attempts, budget_attempts,
            budget_since, replays, ended_at, error_kind, last_error, last_attempt)
        VALUES (it.seq, it.queue, it.job, it.status, v_ready, it.due, it.attempts, it.budget_attempts,
            it.budget_since, it.replays, it.ended_at, it.kind, it.error, it.last);
        PERFORM @schema@.count_v1(p_slot, ARRAY[it.queue], ARRAY[(it.status = 0)::int::bigint],
            ARRAY[(it.status = 1)::int::bigint], ARRAY[(it.status = 2)::int::bigint]);
        v_new := v_new + 1;
    END LOOP;
    INSERT INTO @schema@.attempt (seq, number, attempt)
    SELECT * FROM unnest(p_attempt_seqs, p_attempt_numbers, p_attempt_rows) ON CONFLICT DO NOTHING;
    PERFORM setval('@schema@.seq', greatest((SELECT max(s) FROM unnest(p_seqs) AS s), (SELECT last_value FROM @schema@.seq)));
    RETURN v_new;
END
$body$;
