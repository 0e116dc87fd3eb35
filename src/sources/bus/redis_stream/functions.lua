#!lua name=fanfare

-- The functions through which nodes and applications append to a Fanfare bus. KEYS: the stream, and the hash that
-- describes it. Both keys, and those of publishers' ids, share a hash tag.
--
-- The entries of an epoch have the ids <epoch>-0, <epoch>-1, ...: dense, because only this file appends. A new epoch
-- begins with a fork, before anything else is appended, when entries may have been lost:
--   - the replication id is not the stored one: another server took over, or this one restarted;
--   - the stream is gone: deleted, or evicted;
--   - the last entry is not of the stored epoch, or far ahead in it: something appended with an id of its own.

local FORMAT = '1'
-- Beyond this, Lua's numbers are not exact.
local EXACT_MAX = 2 ^ 53

local function last_id(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function parts_of(id)
  local epoch, offset = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(offset)
end

-- The epoch to append to; begins a new one if necessary.
local function current_epoch(stream, state)
  local replication = redis.call('INFO', 'replication')
  if not string.find(replication, 'role:master', 1, true) then
    return redis.error_reply('READONLY it is a replica, which may lack entries')
  end
  local replid = string.match(replication, 'master_replid:(%x+)')
  local stored = redis.call('HMGET', state, 'epoch', 'replid')
  local epoch = tonumber(stored[1] or '0')
  local previous = ''
  if redis.call('EXISTS', stream) == 1 then
    previous = last_id(stream)
    local last_epoch, last_offset = parts_of(previous)
    if stored[2] == replid and last_epoch == epoch and last_offset < EXACT_MAX then return stored[1] end
    epoch = math.max(epoch, last_epoch)
  end
  epoch = math.max(epoch + 1, now_ms())
  if epoch >= EXACT_MAX then
    return redis.error_reply('ERR the stream holds an id that is too large for another one: delete the key ' .. stream)
  end
  local text = string.format('%.0f', epoch)
  redis.call('XADD', stream, text .. '-0', 'fork', previous)
  redis.call('HSET', state, 'epoch', text, 'replid', replid, 'format', FORMAT)
  return text
end

-- Appends an entry for each `width` of the arguments, beginning with the argument `first`. Returns an entry id for
-- each, with '=' in front if the publisher's id was there already.
local function append_from(first, width, keys, args)
  local stream, state = keys[1], keys[2]
  local epoch = current_epoch(stream, state)
  if type(epoch) == 'table' then return epoch end
  local ids = {}
  for i = first, #args, width do
    local topic, data, own, event, retry, node, gap = unpack(args, i, i + width - 1)
    local own_key = own ~= '' and stream .. ':id:' .. #topic .. ':' .. topic .. ':' .. own
    local known = own_key and redis.call('GET', own_key)
    if known then
      ids[#ids + 1] = '=' .. known
    else
      local fields = { 'd', data }
      for name, value in pairs({ t = topic, i = own, e = event, r = retry, n = node, gap = gap }) do
        if value ~= '' then
          fields[#fields + 1] = name
          fields[#fields + 1] = value
        end
      end
      local id = redis.call('XADD', stream, 'MAXLEN', '~', args[1], epoch .. '-*', unpack(fields))
      if own_key then redis.call('SET', own_key, id, 'PX', args[2]) end
      ids[#ids + 1] = id
    end
  end
  return ids
end

-- ARGV: entries that the stream keeps, milliseconds for which a publisher's id is remembered, then for each entry its
-- topic ('' for a message to all nodes), data, publisher's id, event type, retry, node: '' for none.
local function append(keys, args)
  return append_from(3, 6, keys, args)
end

-- Returns the last entry's id, after a fork if one is due.
local function check(keys)
  local epoch = current_epoch(keys[1], keys[2])
  if type(epoch) == 'table' then return epoch end
  return last_id(keys[1])
end

-- What pub/sub carries is appended by one node, the leader. The state has its token, <node>/<session>, and until when
-- no other node may take the lead. Redis compares the token in the same step in which it appends: so a token must be
-- unique, and need not rise. The time decides only when another node may take the lead: a leader whose time is over
-- keeps it until another node takes it.

-- No lease is longer. One that seems to be is from before the clock was set back.
local LEASE_MS_MAX = 60000
-- How long only a node that can continue may take the lead of a leader that has ended.
local CONTINUE_MS = 2000

-- ARGV: entries that the stream keeps, the caller's token, milliseconds of the lease, the channel of markers, what the
-- caller is subscribed to, the topics of a gap ('' for all), the leader whose end the caller has read ('' for none).
-- Takes the lead unless another node has it. Returns
--   { 'begins' }: after a gap. Of what the caller receives, everything after its marker is its own to append;
--   { 'continues' }: everything after the end of the leader before it is its own to append;
--   { 'standby', token of the leader }.
local function lead(keys, args)
  local stream, state = keys[1], keys[2]
  local entries_max, token, lease_ms, channel, feeds, topics, ended = unpack(args)
  local epoch = current_epoch(stream, state)
  if type(epoch) == 'table' then return epoch end
  local leader, until_ms, ended_leader, feeds_before =
    unpack(redis.call('HMGET', state, 'leader', 'leads_until', 'ended_leader', 'feeds'))
  local now = now_ms()
  local left = tonumber(until_ms or '0') - now
  local is_own = leader and string.match(leader, '^[^/]*') == string.match(token, '^[^/]*')
  local continues = leader and leader == ended and leader == ended_leader and feeds == feeds_before
  if leader and not is_own and not continues and left > 0 and left <= LEASE_MS_MAX then return { 'standby', leader } end
  -- First, because an ACL may refuse it: nothing has changed then.
  redis.call('PUBLISH', channel, 'leads ' .. token)
  if not continues then
    -- Topics that only the leader before was subscribed to have lost their source.
    if feeds_before and feeds ~= feeds_before then topics = '' end
    redis.call('XADD', stream, 'MAXLEN', '~', entries_max, epoch .. '-*', 'd', topics, 'gap', 'source_lost')
  end
  redis.call('HSET', state, 'leader', token, 'leads_until', string.format('%.0f', now + lease_ms), 'ended_leader', '',
    'feeds', feeds)
  return { continues and 'continues' or 'begins' }
end

local function is_leader(keys, token)
  return redis.call('HGET', keys[2], 'leader') == token
end

-- ARGV: as for an append, then the leader's token, milliseconds of the lease, then for each entry seven arguments: the
-- last is the reason of a gap, whose data is its topics. Also renews the lease.
local function ingest(keys, args)
  if not is_leader(keys, args[3]) then return redis.error_reply('NOTLEADER another node leads') end
  local ids = append_from(5, 7, keys, args)
  if not ids.err then redis.call('HSET', keys[2], 'leads_until', string.format('%.0f', now_ms() + args[4])) end
  return ids
end

-- ARGV: the leader's token, and '1' if it has appended everything that it received before its end, which other nodes have
-- received, too. Gives up the lead.
local function resign(keys, args)
  local token, hands_over = args[1], args[2] == '1'
  if not is_leader(keys, token) then return redis.error_reply('NOTLEADER another node leads') end
  local until_ms = hands_over and string.format('%.0f', now_ms() + CONTINUE_MS) or '0'
  redis.call('HSET', keys[2], 'leads_until', until_ms, 'ended_leader', hands_over and token or '')
  return redis.status_reply('OK')
end

redis.register_function('fanfare_append', append)
redis.register_function('fanfare_check', check)
redis.register_function('fanfare_lead', lead)
redis.register_function('fanfare_ingest', ingest)
redis.register_function('fanfare_resign', resign)
