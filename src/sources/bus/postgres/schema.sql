-- The bus of Fanfare in PostgreSQL: tables and functions in the schema fanfare. Safe to run again.
--
-- Every entry has a position, <epoch>-<offset>. Each append locks the row of fanfare.state until the end of its
-- transaction, and continues after the newest entry. So offsets are dense in an epoch, the order of offsets is the order of
-- commits, and a transaction that is rolled back leaves no hole. The row is only locked: each new version of it would stay
-- while any old transaction runs, and all later appends would have to pass them.
--
-- A new epoch begins with a fork, before anything else is appended, when entries may have been lost: the database is not
-- the one that the state names (another cluster, another timeline after a promotion or a restore, a table from a dump), or
-- the entries of its epoch are gone. A copy of the files that PostgreSQL takes for the same database looks the same: call
-- fanfare.fork() after such a restore.
--
-- All functions that other roles call are SECURITY DEFINER with a search_path of their own, which holds for those that they
-- call. They run with the rights of the role that installs this file.

BEGIN ISOLATION LEVEL READ COMMITTED;

-- The version of this file: a later one is not replaced by mistake.
SET LOCAL fanfare.library = '2';
-- The version of the entries. A node reads its own version and the one before.
SET LOCAL fanfare.format = '1';

SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('fanfare bus install'));

DO $$
DECLARE
  other name;
  installed integer;
BEGIN
  IF current_setting('server_encoding') <> 'UTF8' THEN
    RAISE EXCEPTION 'the encoding of this database is %, and a bus needs UTF8', current_setting('server_encoding');
  END IF;
  -- What another role owns could be anything, and would run with the rights of this one.
  SELECT pg_get_userbyid(owner) INTO other FROM (
    SELECT nspowner FROM pg_namespace WHERE nspname = 'fanfare'
    UNION SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace('fanfare')
    UNION SELECT proowner FROM pg_proc WHERE pronamespace = to_regnamespace('fanfare')
  ) owners (owner) WHERE owner <> current_user::regrole;
  IF FOUND THEN
    RAISE EXCEPTION 'the schema fanfare, or something in it, belongs to the role %: install as that role', other;
  END IF;
  IF to_regclass('fanfare.state') IS NOT NULL THEN
    -- Before any other lock, as all publishers do: otherwise the two could deadlock.
    SELECT library INTO installed FROM fanfare.state FOR NO KEY UPDATE;
    IF installed > current_setting('fanfare.library')::integer
      AND current_setting('fanfare.force', true) IS DISTINCT FROM 'on' THEN
      RAISE EXCEPTION 'the functions there have version %, which a later Fanfare has installed; this one has %: %',
        installed, current_setting('fanfare.library'), 'use the later one, or --force';
    END IF;
  END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS fanfare;

-- One row. A transaction that appends holds its lock, and seldom changes it.
CREATE TABLE IF NOT EXISTS fanfare.state (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  library integer NOT NULL,
  format integer NOT NULL,
  -- The epoch of the newest entry; 0: there is none yet.
  epoch bigint NOT NULL DEFAULT 0,
  -- Entries of the epochs before this one.
  entries_before bigint NOT NULL DEFAULT 0,
  -- The database that the entries are of: see fanfare.identity().
  identity text,
  -- The bytes that a topic and an event may have; NULL: no node has set them, and the defaults of a node hold.
  topic_bytes integer,
  event_bytes integer,
  -- Whether appends notify nodes; an operator decides.
  notifies boolean NOT NULL DEFAULT false
);

-- One row: how many entries are kept, and how long publishers' ids, as the node says that connected last; the oldest entry
-- that is kept, and how many were deleted.
CREATE TABLE IF NOT EXISTS fanfare.horizon (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  entries_max bigint NOT NULL DEFAULT 1000000,
  id_memory interval NOT NULL DEFAULT '10 minutes',
  epoch bigint NOT NULL DEFAULT 0,
  entry_offset bigint NOT NULL DEFAULT 0,
  entries_deleted bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- kind is 'event'; 'disconnect', which node passed on; 'gap', whose data is its topics as JSON, or '' for all, and whose
-- event is the reason; or 'fork'. Data is bytes, because text can't have a NUL.
CREATE TABLE IF NOT EXISTS fanfare.entries (
  epoch bigint NOT NULL,
  entry_offset bigint NOT NULL,
  kind text NOT NULL,
  topic text,
  data bytea NOT NULL,
  event text,
  id text,
  retry bigint,
  node text,
  PRIMARY KEY (epoch, entry_offset)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- The publishers' ids of the last while. The key is a hash of topic and id, since both may be long.
CREATE TABLE IF NOT EXISTS fanfare.ids (
  key bytea PRIMARY KEY,
  epoch bigint NOT NULL,
  entry_offset bigint NOT NULL,
  published_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX IF NOT EXISTS ids_published_at ON fanfare.ids (published_at);

-- How far sources that keep their entries were read.
CREATE TABLE IF NOT EXISTS fanfare.cursors (
  source text PRIMARY KEY,
  reached text NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- One row: the node that appends what sources that keep nothing carry, <node>/<session>, and until when no other node may take
-- the lead; the leader that ended last in an orderly way; and what the leader is subscribed to.
CREATE TABLE IF NOT EXISTS fanfare.leads (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  leader text,
  leads_until timestamptz NOT NULL DEFAULT '-infinity',
  ended_leader text,
  feeds text
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

INSERT INTO fanfare.leads DEFAULT VALUES ON CONFLICT DO NOTHING;
INSERT INTO fanfare.horizon DEFAULT VALUES ON CONFLICT DO NOTHING;
INSERT INTO fanfare.state AS s (library, format)
  VALUES (current_setting('fanfare.library')::integer, current_setting('fanfare.format')::integer)
  ON CONFLICT (is_only) DO UPDATE SET library = excluded.library, format = greatest(s.format, excluded.format);

-- What tells this database from every other one: cluster, timeline, database, and the table, which a dump makes anew.
CREATE OR REPLACE FUNCTION fanfare.identity() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF pg_catalog.pg_is_in_recovery() THEN
    RAISE EXCEPTION 'this server is a standby, which may lack events: use the address of the primary'
      USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  RETURN pg_catalog.concat_ws('/',
    (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c),
    pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8),
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
    'fanfare.state'::pg_catalog.regclass::pg_catalog.oid);
END $$;

-- The offset of the newest entry of an epoch; NULL: it has none.
CREATE OR REPLACE FUNCTION fanfare.last_offset(of_epoch bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT e.entry_offset FROM fanfare.entries e WHERE e.epoch = of_epoch ORDER BY e.entry_offset DESC LIMIT 1
$$;

-- Begins an epoch with a fork. The caller has locked the state.
CREATE OR REPLACE FUNCTION fanfare.begin_epoch(bus fanfare.state, identity text) RETURNS fanfare.state
LANGUAGE plpgsql AS $$
DECLARE
  previous bigint := fanfare.last_offset(bus.epoch);
BEGIN
  bus.entries_before := bus.entries_before + coalesce(previous + 1, 0);
  -- An epoch ahead of the clock is from another clock, and another copy of this bus may be ahead by as much.
  bus.epoch := greatest(bus.epoch + 1 + (random() * 1000000)::bigint,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint);
  bus.identity := identity;
  INSERT INTO fanfare.entries (epoch, entry_offset, kind, data) VALUES (bus.epoch, 0, 'fork', '');
  UPDATE fanfare.state s SET entries_before = bus.entries_before, epoch = bus.epoch, identity = bus.identity;
  IF bus.notifies THEN
    PERFORM pg_notify('fanfare', '');
  END IF;
  RETURN bus;
END $$;

-- Locks the state until the end of the transaction, and begins an epoch if one is due.
CREATE OR REPLACE FUNCTION fanfare.lock_state() RETURNS fanfare.state LANGUAGE plpgsql AS $$
DECLARE
  bus fanfare.state;
  identity text := fanfare.identity();
BEGIN
  SELECT s.* INTO bus FROM fanfare.state s WHERE s.is_only FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the tables of the bus have no rows: run fanfare bus install';
  END IF;
  -- Only to be seen: pg_locks does not show whose a locked row is. If another session has this lock, nothing waits for it.
  PERFORM pg_try_advisory_xact_lock_shared(1178685254, 1);
  IF bus.identity IS DISTINCT FROM identity OR fanfare.last_offset(bus.epoch) IS NULL THEN
    bus := fanfare.begin_epoch(bus, identity);
  END IF;
  RETURN bus;
END $$;

-- What readers have seen must survive a crash, so a transaction that appends does not commit asynchronously. This runs when
-- it commits: before, the application could still change the setting, and a function with a setting of its own restores it.
CREATE OR REPLACE FUNCTION fanfare.commit_durably() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_setting('synchronous_commit') IN ('off', 'local') THEN
    PERFORM pg_catalog.set_config('synchronous_commit', 'on', true);
  END IF;
  RETURN NULL;
END $$;
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'fanfare.entries'::regclass AND tgname = 'commit_durably') THEN
    CREATE CONSTRAINT TRIGGER commit_durably AFTER INSERT ON fanfare.entries DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION fanfare.commit_durably();
  END IF;
END $$;

-- Refuses topics and data that are larger than the bus takes; until a node has set that, than nodes take by default. It runs
-- before the state is locked, since it takes long for large data.
CREATE OR REPLACE FUNCTION fanfare.check_sizes(topics text[], datas bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  topic_max integer;
  event_max integer;
BEGIN
  SELECT coalesce(s.topic_bytes, 256), coalesce(s.event_bytes, 262144) INTO topic_max, event_max FROM fanfare.state s;
  FOR i IN 1 .. coalesce(cardinality(topics), 0) LOOP
    IF octet_length(topics[i]) > topic_max THEN
      RAISE EXCEPTION 'a topic on this bus may have % bytes', topic_max USING ERRCODE = 'program_limit_exceeded';
    END IF;
    -- Each further line takes 6 bytes more on the wire.
    IF topics[i] IS NOT NULL AND octet_length(datas[i]) > event_max / 7
      AND (octet_length(datas[i]) > event_max OR octet_length(datas[i]) + 6 * fanfare.line_ends(datas[i]) > event_max) THEN
      RAISE EXCEPTION 'an event on this bus may have % bytes', event_max USING ERRCODE = 'program_limit_exceeded';
    END IF;
  END LOOP;
END $$;

-- How many lines end in this data.
CREATE OR REPLACE FUNCTION fanfare.line_ends(data bytea) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  -- Line ends, digits, letters and the like stay as they are; other bytes become several.
  lines text := replace(encode(data, 'escape'), E'\r\n', E'\n');
BEGIN
  RETURN octet_length(lines) - octet_length(replace(replace(lines, E'\r', ''), E'\n', ''));
END $$;

-- Refuses what no node could deliver.
CREATE OR REPLACE FUNCTION fanfare.check_event(topic text, data text, event text, id text, retry bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  problem text := CASE
    WHEN topic IS NULL OR topic = '' THEN 'the topic must not be empty'
    WHEN octet_length(topic) > 1024 THEN 'the topic is longer than 1024 bytes'
    WHEN topic ~ '[\u0001-\u001f\u007f-\u009f]' THEN 'the topic holds a control character'
    WHEN starts_with(topic, 'fanfare:') THEN 'the topic is reserved for the server itself'
    WHEN data IS NULL THEN 'the data must not be NULL'
    WHEN event = '' THEN 'the event type must not be empty'
    WHEN octet_length(event) > 128 THEN 'the event type is longer than 128 bytes'
    WHEN event ~ '[\u0001-\u001f\u007f-\u009f]' THEN 'the event type holds a control character'
    WHEN event = 'gap' THEN 'the event type gap is reserved for the server itself'
    WHEN octet_length(id) NOT BETWEEN 1 AND 87 THEN 'the id must have 1 to 87 bytes'
    WHEN id COLLATE "C" ~ '[^!-~]' THEN 'the id must be visible ASCII'
    WHEN retry NOT BETWEEN 0 AND 4294967295 THEN 'retry must be 0 to 4294967295 milliseconds'
  END;
BEGIN
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'fanfare_publish: %', problem USING ERRCODE = 'invalid_parameter_value';
  END IF;
END $$;

-- Appends one entry for each element. A topic is NULL for a message to all nodes, which names a node, and for a gap. Nodes
-- call it; applications call fanfare_publish. Returns a position for each; it is a duplicate if the publisher's id was there
-- already.
CREATE OR REPLACE FUNCTION fanfare.append(
  topics text[], datas bytea[], ids text[], events text[], retries bigint[], nodes text[],
  OUT at_epoch bigint, OUT at_offset bigint, OUT is_duplicate boolean
) RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bus fanfare.state;
  first_offset bigint;
  last_offset bigint;
  memory interval;
  id_key bytea;
BEGIN
  PERFORM fanfare.check_sizes(topics, datas);
  bus := fanfare.lock_state();
  first_offset := fanfare.last_offset(bus.epoch);
  last_offset := first_offset;
  SELECT h.id_memory INTO memory FROM fanfare.horizon h;
  FOR i IN 1 .. coalesce(cardinality(topics), 0) LOOP
    is_duplicate := false;
    id_key := sha256(convert_to(octet_length(topics[i]) || ':' || topics[i] || ':' || ids[i], 'UTF8'));
    IF id_key IS NOT NULL THEN
      SELECT known.epoch, known.entry_offset INTO at_epoch, at_offset FROM fanfare.ids known
        WHERE known.key = id_key AND known.published_at > clock_timestamp() - memory;
      is_duplicate := FOUND;
    END IF;
    IF NOT is_duplicate THEN
      last_offset := last_offset + 1;
      at_epoch := bus.epoch;
      -- If another transaction has published since this one's snapshot, this is a serialization failure.
      INSERT INTO fanfare.entries AS e (epoch, entry_offset, kind, topic, data, event, id, retry, node)
        VALUES (bus.epoch, last_offset,
          CASE WHEN topics[i] IS NOT NULL THEN 'event' WHEN nodes[i] IS NOT NULL THEN 'disconnect' ELSE 'gap' END,
          topics[i], datas[i], events[i], ids[i], retries[i], nodes[i])
        ON CONFLICT DO NOTHING RETURNING e.entry_offset INTO STRICT at_offset;
      IF id_key IS NOT NULL THEN
        INSERT INTO fanfare.ids (key, epoch, entry_offset, published_at)
          VALUES (id_key, at_epoch, at_offset, clock_timestamp())
          ON CONFLICT (key) DO UPDATE SET epoch = excluded.epoch, entry_offset = excluded.entry_offset,
            published_at = excluded.published_at;
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
  IF bus.notifies AND last_offset > first_offset THEN
    PERFORM pg_notify('fanfare', '');
  END IF;
END $$;

-- How far a source was read; NULL: nothing yet.
CREATE OR REPLACE FUNCTION fanfare.read_cursor(name text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.reached FROM fanfare.cursors c WHERE c.source = name
$$;

-- Appends, as fanfare.append(), what was read of a source from one cursor to another, and moves the cursor. Returns one row
-- more, the first, which has only whether the cursor was the expected one; if not, nothing is appended.
CREATE OR REPLACE FUNCTION fanfare.append_from(
  name text, from_cursor text, to_cursor text,
  topics text[], datas bytea[], ids text[], events text[], retries bigint[], nodes text[],
  OUT is_moved boolean, OUT at_epoch bigint, OUT at_offset bigint, OUT is_duplicate boolean
) RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM fanfare.check_sizes(topics, datas);
  -- Others wait here, and then see the cursor that this transaction leaves.
  PERFORM fanfare.lock_state();
  is_moved := from_cursor IS NOT DISTINCT FROM (SELECT c.reached FROM fanfare.cursors c WHERE c.source = name);
  RETURN NEXT;
  IF is_moved THEN
    INSERT INTO fanfare.cursors AS c (source, reached) VALUES (name, to_cursor)
      ON CONFLICT (source) DO UPDATE SET reached = excluded.reached;
    RETURN QUERY SELECT true, a.at_epoch, a.at_offset, a.is_duplicate
      FROM fanfare.append(topics, datas, ids, events, retries, nodes) a;
  END IF;
END $$;

-- Takes the lead unless another node has it, after a gap of these topics ('' for all) unless the caller has received the end of
-- the leader before it, and everything after that. The time decides only when another node may take the lead: what counts is
-- the token. Returns 'begins' or 'continues', or the leader, and whether the caller leads.
CREATE OR REPLACE FUNCTION fanfare.lead(
  token text, lease_ms bigint, subscribed_to text, gap_topics bytea, ended text, OUT leads boolean, OUT answer text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  before fanfare.leads;
  continues boolean;
BEGIN
  PERFORM fanfare.lock_state();
  SELECT l.* INTO STRICT before FROM fanfare.leads l;
  continues := coalesce(
    before.leader = ended AND before.ended_leader = ended AND before.feeds = subscribed_to, false);
  -- No lease is as long as a minute: such a one is from before the clock was set back.
  IF before.leads_until BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 minute' AND NOT continues
    AND split_part(before.leader, '/', 1) <> split_part(token, '/', 1) THEN
    leads := false;
    answer := before.leader;
    RETURN;
  END IF;
  IF NOT continues THEN
    -- Topics that only the leader before was subscribed to have lost their source.
    PERFORM FROM fanfare.append(ARRAY[NULL::text],
      ARRAY[CASE WHEN before.feeds <> subscribed_to THEN ''::bytea ELSE gap_topics END], ARRAY[NULL::text],
      ARRAY['source_lost'], ARRAY[NULL::bigint], ARRAY[NULL::text]);
  END IF;
  UPDATE fanfare.leads l SET leader = token, leads_until = clock_timestamp() + lease_ms * interval '1 millisecond',
    ended_leader = NULL, feeds = subscribed_to;
  leads := true;
  answer := CASE WHEN continues THEN 'continues' ELSE 'begins' END;
END $$;

-- Appends for the leader, as fanfare.append(), and renews its lease.
CREATE OR REPLACE FUNCTION fanfare.ingest(
  token text, lease_ms bigint,
  topics text[], datas bytea[], ids text[], events text[], retries bigint[], nodes text[],
  OUT at_epoch bigint, OUT at_offset bigint, OUT is_duplicate boolean
) RETURNS SETOF record LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM fanfare.lock_state();
  UPDATE fanfare.leads l SET leads_until = clock_timestamp() + lease_ms * interval '1 millisecond' WHERE l.leader = token;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another node leads';
  END IF;
  RETURN QUERY SELECT * FROM fanfare.append(topics, datas, ids, events, retries, nodes);
END $$;

-- Gives up the lead. If the leader hands it over, only a node that continues may take it for two seconds.
CREATE OR REPLACE FUNCTION fanfare.resign(token text, hands_over boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM fanfare.lock_state();
  UPDATE fanfare.leads l SET ended_leader = CASE WHEN hands_over THEN token END,
    leads_until = CASE WHEN hands_over THEN clock_timestamp() + interval '2 seconds' ELSE '-infinity' END
    WHERE l.leader = token;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'another node leads';
  END IF;
END $$;

-- Publishes an event as part of this transaction: subscribers get it after the commit. Returns its id. An id of the
-- publisher's own makes a repeated call a duplicate, which returns the id of the first.
CREATE OR REPLACE FUNCTION fanfare.fanfare_publish(
  topic text, data text, event text DEFAULT NULL, id text DEFAULT NULL, retry integer DEFAULT NULL
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM fanfare.check_event(topic, data, event, id, retry);
  RETURN (SELECT a.at_epoch || '-' || a.at_offset || coalesce('~' || id, '') FROM fanfare.append(
    ARRAY[topic], ARRAY[convert_to(data, 'UTF8')], ARRAY[id], ARRAY[event], ARRAY[retry::bigint], ARRAY[NULL::text]) a);
END $$;

-- Publishes one event, or an array of them, in the form that POST /publish takes. Returns an id for each.
CREATE OR REPLACE FUNCTION fanfare.fanfare_publish(events jsonb) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  list jsonb := CASE jsonb_typeof(events) WHEN 'array' THEN events ELSE jsonb_build_array(events) END;
  topics text[]; datas text[]; types text[]; ids text[]; retries bigint[];
BEGIN
  PERFORM fanfare.check_json(item) FROM jsonb_array_elements(list) item;
  SELECT array_agg(item ->> 'topic' ORDER BY n),
      array_agg(CASE jsonb_typeof(item -> 'data') WHEN 'string' THEN item ->> 'data' ELSE (item -> 'data')::text END
        ORDER BY n),
      array_agg(item ->> 'event' ORDER BY n), array_agg(item ->> 'id' ORDER BY n),
      array_agg((item ->> 'retry')::bigint ORDER BY n)
    INTO topics, datas, types, ids, retries FROM jsonb_array_elements(list) WITH ORDINALITY AS items (item, n);
  PERFORM fanfare.check_event(e.topic, e.data, e.type, e.id, e.retry)
    FROM unnest(topics, datas, types, ids, retries) AS e (topic, data, type, id, retry);
  RETURN QUERY
    SELECT a.at_epoch || '-' || a.at_offset || coalesce('~' || own.id, '')
      FROM fanfare.append(topics,
          ARRAY(SELECT convert_to(d, 'UTF8') FROM unnest(datas) WITH ORDINALITY AS u (d, n) ORDER BY n),
          ids, types, retries, array_fill(NULL::text, ARRAY[coalesce(cardinality(topics), 0)]))
        WITH ORDINALITY AS a (at_epoch, at_offset, is_duplicate, n)
      JOIN unnest(ids) WITH ORDINALITY AS own (id, n) USING (n)
      ORDER BY n;
END $$;

-- Refuses what is not an event in the form of POST /publish. A field that may be absent may be null.
CREATE OR REPLACE FUNCTION fanfare.check_json(item jsonb) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  problem text := CASE
    WHEN jsonb_typeof(item) IS DISTINCT FROM 'object' THEN 'an event is an object'
    WHEN jsonb_typeof(item -> 'topic') <> 'string' THEN 'the topic must be a string'
    WHEN jsonb_typeof(item -> 'event') NOT IN ('string', 'null') THEN 'the event type must be a string'
    WHEN jsonb_typeof(item -> 'id') NOT IN ('string', 'null') THEN 'the id must be a string'
    WHEN jsonb_typeof(item -> 'retry') NOT IN ('number', 'null') OR (item ->> 'retry') ~ '[.]'
      THEN 'retry must be whole milliseconds'
    ELSE (SELECT 'unknown field ' || k
      FROM jsonb_object_keys(CASE jsonb_typeof(item) WHEN 'object' THEN item ELSE '{}' END) k
      WHERE k NOT IN ('topic', 'data', 'event', 'id', 'retry') LIMIT 1)
  END;
BEGIN
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'fanfare_publish: %', problem USING ERRCODE = 'invalid_parameter_value';
  END IF;
END $$;

-- Begins an epoch, as after a restore that PostgreSQL does not know of: all subscribers get a gap.
CREATE OR REPLACE FUNCTION fanfare.fork() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bus fanfare.state := fanfare.lock_state();
BEGIN
  bus := fanfare.begin_epoch(bus, bus.identity);
  RETURN bus.epoch || '-0';
END $$;

-- What a node does when it connects, and when something has changed. Begins an epoch if one is due. The first node's
-- bounds become those of the bus, and a node with smaller ones may not read it; 0: the caller is no node.
CREATE OR REPLACE FUNCTION fanfare.open(
  reads_format integer, INOUT topic_bytes integer, INOUT event_bytes integer, entries_max bigint, id_memory_ms bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  bus fanfare.state;
  is_node boolean := topic_bytes > 0;
  memory interval := id_memory_ms * interval '1 millisecond';
BEGIN
  SELECT s.* INTO bus FROM fanfare.state s;
  IF bus.identity IS DISTINCT FROM fanfare.identity() OR fanfare.last_offset(bus.epoch) IS NULL
    OR is_node AND (bus.topic_bytes IS NULL OR bus.event_bytes IS NULL) THEN
    bus := fanfare.lock_state();
  END IF;
  IF bus.format > reads_format OR bus.format < reads_format - 1 THEN
    RAISE EXCEPTION 'the bus has format %, this version of Fanfare reads %', bus.format, reads_format;
  END IF;
  IF is_node AND (bus.topic_bytes IS NULL OR bus.event_bytes IS NULL) THEN
    bus.topic_bytes := coalesce(bus.topic_bytes, topic_bytes);
    bus.event_bytes := coalesce(bus.event_bytes, event_bytes);
    UPDATE fanfare.state s SET topic_bytes = bus.topic_bytes, event_bytes = bus.event_bytes;
  END IF;
  IF is_node AND (topic_bytes < bus.topic_bytes OR event_bytes < bus.event_bytes) THEN
    RAISE EXCEPTION 'the bus has topics of up to % and events of up to % bytes: raise topic-bytes or event-bytes',
      bus.topic_bytes, bus.event_bytes;
  END IF;
  IF is_node THEN
    UPDATE fanfare.horizon h SET entries_max = entries_max, id_memory = memory
      WHERE (h.entries_max, h.id_memory) IS DISTINCT FROM (entries_max, memory);
  END IF;
  topic_bytes := coalesce(bus.topic_bytes, 0);
  event_bytes := coalesce(bus.event_bytes, 0);
END $$;

-- The oldest entries after a position, or the newest before one, in ascending order. Each row also has the state that they
-- are of, and so has a single row if there are none. Not current: fanfare.open() has to run first.
CREATE OR REPLACE FUNCTION fanfare.read(is_after boolean, from_epoch bigint, from_offset bigint, rows_max bigint)
RETURNS TABLE (
  is_current boolean, format integer, topic_bytes integer, event_bytes integer, last_epoch bigint, last_offset bigint,
  epoch bigint, entry_offset bigint, kind text, topic text, data bytea, event text, id text, retry bigint, node text
) LANGUAGE plpgsql STABLE ROWS 64 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  identity_now text := fanfare.identity();
BEGIN
  RETURN QUERY SELECT s.identity IS NOT DISTINCT FROM identity_now AND l.entry_offset IS NOT NULL, s.format,
      s.topic_bytes, s.event_bytes, s.epoch, l.entry_offset,
      e.epoch, e.entry_offset, e.kind, e.topic, e.data, e.event, e.id, e.retry, e.node
    FROM fanfare.state s LEFT JOIN LATERAL (
      SELECT n.entry_offset FROM fanfare.entries n WHERE n.epoch = s.epoch ORDER BY n.entry_offset DESC LIMIT 1
    ) l ON true LEFT JOIN LATERAL (
      (SELECT a.* FROM fanfare.entries a WHERE is_after AND (a.epoch, a.entry_offset) > (from_epoch, from_offset)
        ORDER BY a.epoch, a.entry_offset LIMIT rows_max)
      UNION ALL
      (SELECT b.* FROM fanfare.entries b WHERE NOT is_after AND (b.epoch, b.entry_offset) < (from_epoch, from_offset)
        ORDER BY b.epoch DESC, b.entry_offset DESC LIMIT rows_max)
    ) e ON true ORDER BY e.epoch, e.entry_offset;
END $$;

-- Deletes a batch of the entries that are not kept. One node at a time does; the others have nothing to do. Returns true if
-- there are more.
CREATE OR REPLACE FUNCTION fanfare.delete_entries(batch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bus fanfare.state;
  kept fanfare.horizon;
  last_offset bigint;
  deletable bigint;
  deleted bigint;
BEGIN
  SELECT h.* INTO kept FROM fanfare.horizon h FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  SELECT s.* INTO STRICT bus FROM fanfare.state s;
  last_offset := fanfare.last_offset(bus.epoch);
  deletable := bus.entries_before + last_offset + 1 - kept.entries_deleted - kept.entries_max;
  IF deletable IS NULL OR deletable <= 0 THEN
    RETURN false;
  END IF;
  WITH old AS (
    SELECT e.epoch, e.entry_offset FROM fanfare.entries e
      WHERE (e.epoch, e.entry_offset) >= (kept.epoch, kept.entry_offset)
        AND (e.epoch, e.entry_offset) < (bus.epoch, last_offset)
      ORDER BY e.epoch, e.entry_offset LIMIT least(batch, deletable)
  ), gone AS (
    DELETE FROM fanfare.entries e USING old WHERE e.epoch = old.epoch AND e.entry_offset = old.entry_offset RETURNING 1
  )
  SELECT count(*) INTO deleted FROM gone;
  UPDATE fanfare.horizon h
    SET entries_deleted = h.entries_deleted + deleted, epoch = oldest.epoch, entry_offset = oldest.entry_offset
    FROM (
      SELECT e.epoch, e.entry_offset FROM fanfare.entries e
        WHERE (e.epoch, e.entry_offset) >= (kept.epoch, kept.entry_offset) ORDER BY e.epoch, e.entry_offset LIMIT 1
    ) oldest;
  RETURN deleted >= batch;
END $$;

-- Deletes a batch of the publishers' ids that are no longer remembered. Returns true if there are more.
CREATE OR REPLACE FUNCTION fanfare.delete_ids(batch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  -- As a value: with a call in its place, the index would not be used.
  forgotten timestamptz := clock_timestamp() - (SELECT h.id_memory FROM fanfare.horizon h);
  deleted bigint;
BEGIN
  WITH old AS (
    SELECT i.key FROM fanfare.ids i WHERE i.published_at < forgotten
      ORDER BY i.published_at LIMIT batch FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM fanfare.ids i USING old WHERE i.key = old.key RETURNING 1
  )
  SELECT count(*) INTO deleted FROM gone;
  RETURN deleted >= batch;
END $$;

-- Raises the bytes that topics and events of the bus may have; NULL: unchanged. They never become smaller, since larger
-- events may be there.
CREATE OR REPLACE FUNCTION fanfare.raise_bounds(new_topic_bytes integer, new_event_bytes integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bus fanfare.state := fanfare.lock_state();
BEGIN
  IF new_topic_bytes NOT BETWEEN 1 AND 1024 OR new_event_bytes NOT BETWEEN 1 AND 1073741824 THEN
    RAISE EXCEPTION 'a topic may have 1 to 1024 bytes, and an event 1 to 1073741824';
  END IF;
  IF new_topic_bytes < bus.topic_bytes OR new_event_bytes < bus.event_bytes THEN
    RAISE EXCEPTION 'the bus has topics of up to % and events of up to % bytes, and they can only be raised',
      bus.topic_bytes, bus.event_bytes;
  END IF;
  UPDATE fanfare.state s SET topic_bytes = coalesce(new_topic_bytes, s.topic_bytes),
    event_bytes = coalesce(new_event_bytes, s.event_bytes);
END $$;

-- Whether appends notify nodes. A notification only saves time: nodes ask all the same, at longer intervals.
CREATE OR REPLACE FUNCTION fanfare.notifies() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.notifies FROM fanfare.state s
$$;

-- Lets appends notify nodes, or stops that.
CREATE OR REPLACE FUNCTION fanfare.set_notify(is_on boolean) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE fanfare.state s SET notifies = is_on
$$;

-- What the bus holds.
CREATE OR REPLACE FUNCTION fanfare.status() RETURNS TABLE (
  library integer, format integer, is_current boolean, last_epoch bigint, last_offset bigint, first_epoch bigint,
  first_offset bigint, entries bigint, topic_bytes integer, event_bytes integer, bytes bigint
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.library, s.format, s.identity IS NOT DISTINCT FROM fanfare.identity(), s.epoch, l.entry_offset, e.epoch,
    e.entry_offset, s.entries_before + coalesce(l.entry_offset + 1, 0) - h.entries_deleted, s.topic_bytes, s.event_bytes,
    pg_total_relation_size('fanfare.entries')
  FROM fanfare.state s CROSS JOIN fanfare.horizon h LEFT JOIN LATERAL fanfare.last_offset(s.epoch) l (entry_offset) ON true
  LEFT JOIN LATERAL (
    SELECT a.epoch, a.entry_offset FROM fanfare.entries a WHERE (a.epoch, a.entry_offset) >= (h.epoch, h.entry_offset)
      ORDER BY a.epoch, a.entry_offset LIMIT 1
  ) e ON true
$$;

-- The transaction that holds the bus, if there is one: it has published and has not ended. A prepared one has a name
-- instead of a process.
CREATE OR REPLACE FUNCTION fanfare.holder() RETURNS TABLE (
  pid integer, prepared text, seconds double precision, state text, application text
) LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.pid, p.gid, extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::double precision,
    a.state, a.application_name
  FROM pg_locks l
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
      AND x.virtualtransaction = l.virtualtransaction
    LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
  WHERE l.locktype = 'advisory' AND l.classid = 1178685254 AND l.objid = 1 AND l.objsubid = 2 AND l.granted
    AND l.mode = 'ShareLock'
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$$;

-- Roles get what docs/scaling.md lists.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fanfare FROM PUBLIC;

COMMIT;
