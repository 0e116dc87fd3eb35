-- A table whose changes are events, from any client. Needs the bus: fanfare bus install.
CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, state text NOT NULL);

CREATE OR REPLACE FUNCTION publish_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- The arguments of the trigger: the topic.
  PERFORM fanfare.fanfare_publish(TG_ARGV[0], to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END)::text,
    event => lower(TG_OP));
  RETURN NULL;
END $$;

-- Deferred: it runs when the transaction commits, so that other publishers do not wait before. One event for each row.
DROP TRIGGER IF EXISTS publish_change ON orders;
CREATE CONSTRAINT TRIGGER publish_change AFTER INSERT OR UPDATE OR DELETE ON orders
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION publish_change('orders');
