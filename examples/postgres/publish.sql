-- Transactions that publish. Needs the bus: fanfare bus install.
CREATE TABLE IF NOT EXISTS payments (id bigint PRIMARY KEY, cents bigint NOT NULL);

-- The row and the event commit together. Publishing comes last, because all other publishers wait from then on.
BEGIN;
INSERT INTO payments (id, cents) VALUES (17, 2500);
SELECT fanfare.fanfare_publish('payments', '{"id": 17, "cents": 2500}', event => 'received', id => 'payment-17');
COMMIT;

-- Subscribers get nothing of this one.
BEGIN;
INSERT INTO payments (id, cents) VALUES (18, 1);
SELECT fanfare.fanfare_publish('payments', '{"id": 18, "cents": 1}', event => 'received', id => 'payment-18');
ROLLBACK;

-- A repeated id is a duplicate: the call returns the id of the first event, and publishes nothing.
SELECT fanfare.fanfare_publish('payments', '{"id": 17, "cents": 2500}', event => 'received', id => 'payment-17');

-- Many events are one call, with one commit.
INSERT INTO payments (id, cents) SELECT n, 100 * n FROM generate_series(20, 22) n;
SELECT fanfare.fanfare_publish(jsonb_agg(
  jsonb_build_object('topic', 'payments', 'event', 'received', 'data', jsonb_build_object('id', id, 'cents', cents)::text)
  ORDER BY id)) FROM payments WHERE id BETWEEN 20 AND 22;
