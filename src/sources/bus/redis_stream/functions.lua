#!lua name=fanfare

-- The functions through which nodes and applications append to a Fanfare bus. KEYS: the stream, and the hash that
-- describes it. Both keys, and those of publishers' ids, share a hash tag.
--
-- The entries of an epoch have the ids <epoch>-0, <epoch>-1, ...: dense, because only this file appends. A new epoch
-- begins with a fork, before anything else is appended, when entries may have been lost:
--   - the replication id is not the stored one: another server took over, or this one restarted;
--   - the stream is gone: deleted, or evicted;
--   - the last entry is not of the stored epoch, or far ahead in it: something appended with an id of its own.
--
-- What Redis holds can't show whether it is all that was ever acknowledged: an older copy looks the same. So only a hold
-- makes a fork without a loss. It is the last that a server writes for the bus: until the hold ends, the server appends
-- nothing. A server that has it has everything before it, since replication and AOF keep the order of writes. It ends when
-- the process that knows its token opens the bus, once, on one server; or after HOLD_MS, and then with a loss wherever the
-- replication id is another one. That process gives up long before: its clock and the server's measure the same time.

-- The version of this file: a later one does not replace it by mistake.
local LIBRARY = 2
-- The version of the entries that it appends, and of the hash. A node reads its own version and the one before.
local FORMAT = 1
-- Beyond this, Lua's numbers are not exact.
local EXACT_MAX = 2 ^ 53
-- How long a hold lasts, in milliseconds.
local HOLD_MS = 120000
local HELD = 'HELD publishing to the bus is held by fanfare bus hold, until Redis has restarted or failed over'

local function last_id(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local function parts_of(id)
  local epoch, offset = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(offset)
end

-- The time in milliseconds, and the microseconds of the second.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), tonumber(time[2])
end

-- The replication id, or an error: only a primary has all entries.
local function replication_id()
  local replication = redis.call('INFO', 'replication')
  if not string.find(replication, 'role:master', 1, true) then
    return redis.error_reply('READONLY it is a replica, which may lack entries')
  end
  return string.match(replication, 'master_replid:(%x+)')
end

-- The newest format that the bus has or gets.
local function format_of(stored)
  return math.max(tonumber(stored or '0'), FORMAT)
end

-- Begins an epoch that is larger than this one, with a fork. Nothing was lost before it if `is_lossless`.
local function begin_epoch(stream, state, epoch, previous, replid, is_lossless)
  local now, microseconds = now_ms()
  -- An epoch ahead of the clock is from another clock, and another copy of this bus may be ahead by as much.
  epoch = math.max(epoch + 1 + microseconds, now)
  if epoch >= EXACT_MAX then
    return redis.error_reply('ERR the stream holds an id that is too large for another one: delete the key ' .. stream)
  end
  local text = string.format('%.0f', epoch)
  local fields = { 'fork', previous }
  if is_lossless then fields = { 'fork', previous, 'lossless', '1' } end
  redis.call('XADD', stream, text .. '-0', unpack(fields))
  local format = format_of(redis.call('HGET', state, 'format'))
  redis.call('HSET', state, 'epoch', text, 'replid', replid, 'format', format)
  redis.call('HDEL', state, 'hold', 'held_at', 'held_last')
  return text
end

-- The epoch to append to; begins a new one if necessary. Refuses while the bus is held; with `is_reading`, only if the
-- replication id is another one, since entries may be missing then.
local function current_epoch(stream, state, is_reading)
  local replid = replication_id()
  if type(replid) == 'table' then return replid end
  local stored = redis.call('HMGET', state, 'epoch', 'replid', 'held_at')
  local is_held = false
  if stored[3] then
    -- Another server's clock may be behind.
    is_held = math.abs(now_ms() - tonumber(stored[3])) < HOLD_MS
    if is_held and not (is_reading and stored[2] == replid) then return redis.error_reply(HELD) end
    if not is_held then redis.call('HDEL', state, 'hold', 'held_at', 'held_last') end
  end
  local epoch = tonumber(stored[1] or '0')
  local previous = ''
  if redis.call('EXISTS', stream) == 1 then
    previous = last_id(stream)
    local last_epoch, last_offset = parts_of(previous)
    if stored[2] == replid and last_epoch == epoch and last_offset < EXACT_MAX then return stored[1] end
    epoch = math.max(epoch, last_epoch)
  end
  if is_held then return redis.error_reply(HELD) end
  return begin_epoch(stream, state, epoch, previous, replid, false)
end

-- The bytes that nodes count for data: on the wire, each further line has 6 bytes more.
local function data_bytes(data, bytes_max)
  if #data <= bytes_max / 7 then return #data end
  local _, ends = string.gsub(string.gsub(data, '\r\n', '\n'), '[\r\n]', '')
  return #data + 6 * ends
end

-- An error if an event is larger than the bus takes: some nodes would refuse it.
local function too_large(first, width, state, args)
  local bounds = redis.call('HMGET', state, 'topic_bytes', 'event_bytes')
  if not (bounds[1] and bounds[2]) then return nil end
  for i = first, #args, width do
    if #args[i] > tonumber(bounds[1]) then
      return redis.error_reply('TOOLARGE a topic on this bus may have ' .. bounds[1] .. ' bytes')
    end
    if args[i] ~= '' and data_bytes(args[i + 1], tonumber(bounds[2])) > tonumber(bounds[2]) then
      return redis.error_reply('TOOLARGE an event on this bus may have ' .. bounds[2] .. ' bytes')
    end
  end
end

-- Appends an entry for each `width` of the arguments, beginning with the argument `first`. Returns an entry id for
-- each, with '=' in front if the publisher's id was there already.
local function append_from(first, width, keys, args)
  local stream, state = keys[1], keys[2]
  local epoch = too_large(first, width, state, args) or current_epoch(stream, state)
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

-- ARGV: the newest format that a node reads, and the bytes that its topics and events may have; 0: it is not a node. The
-- first node's bounds become those of the bus, and a node with smaller ones may not read it. Returns the last entry's id,
-- after a fork if one is due, and the bounds.
local function check(keys, args)
  local state = keys[2]
  local epoch = current_epoch(keys[1], state, true)
  if type(epoch) == 'table' then return epoch end
  local stored = redis.call('HMGET', state, 'format', 'topic_bytes', 'event_bytes')
  local format = format_of(stored[1])
  if format > tonumber(args[1]) or FORMAT < args[1] - 1 then
    return redis.error_reply('FORMAT the bus has format ' .. format .. ', this version of Fanfare reads ' .. args[1])
  end
  local topic_bytes, event_bytes = stored[2] or args[2], stored[3] or args[3]
  if tonumber(args[2]) > 0 then
    if tonumber(args[2]) < tonumber(topic_bytes) or tonumber(args[3]) < tonumber(event_bytes) then
      return redis.error_reply('BOUNDS the bus has topics of up to ' .. topic_bytes .. ' and events of up to '
        .. event_bytes .. ' bytes: raise topic-bytes or event-bytes')
    end
    if not (stored[2] and stored[3]) then
      redis.call('HSET', state, 'topic_bytes', topic_bytes, 'event_bytes', event_bytes)
    end
  end
  return { last_id(keys[1]), tonumber(topic_bytes), tonumber(event_bytes) }
end

-- ARGV: the bytes that topics and events of the bus may have; '' for unchanged. They never become smaller, since larger
-- events may be there. Returns both, 0 if there are none.
local function bounds(keys, args)
  local state = keys[2]
  for i, name in ipairs({ 'topic_bytes', 'event_bytes' }) do
    local stored = tonumber(redis.call('HGET', state, name) or '0')
    if args[i] ~= '' and tonumber(args[i]) < stored then
      return redis.error_reply('BOUNDS the bus has ' .. name .. ' ' .. stored .. ', and they can only be raised')
    end
  end
  for i, name in ipairs({ 'topic_bytes', 'event_bytes' }) do
    if args[i] ~= '' then redis.call('HSET', state, name, args[i]) end
  end
  local stored = redis.call('HMGET', state, 'topic_bytes', 'event_bytes')
  return { tonumber(stored[1] or '0'), tonumber(stored[2] or '0') }
end

-- ARGV: a token. Holds the bus: appends are refused until it is opened with the token.
local function hold(keys, args)
  local stream, state = keys[1], keys[2]
  local epoch = current_epoch(stream, state)
  if type(epoch) == 'table' then return epoch end
  local last = last_id(stream)
  local held_at = string.format('%.0f', now_ms())
  redis.call('HSET', state, 'hold', redis.sha1hex(args[1]), 'held_at', held_at, 'held_last', last)
  return last
end

-- ARGV: the token of a hold, and whether to give it up. Ends the hold: with a fork that lost nothing, if the replication id
-- is another one than before; otherwise only if it is given up. Returns the fork's id, 'unchanged', or 'lost' if the server
-- has not the hold or not the bus that was held.
local function open(keys, args)
  local stream, state = keys[1], keys[2]
  local replid = replication_id()
  if type(replid) == 'table' then return replid end
  local stored = redis.call('HMGET', state, 'epoch', 'replid', 'hold', 'held_last')
  if stored[3] ~= redis.sha1hex(args[1]) then return 'lost' end
  if stored[2] == replid then
    if args[2] == '1' then redis.call('HDEL', state, 'hold', 'held_at', 'held_last') end
    return 'unchanged'
  end
  if redis.call('EXISTS', stream) == 0 or last_id(stream) ~= stored[4] then
    redis.call('HDEL', state, 'hold', 'held_at', 'held_last')
    return 'lost'
  end
  local epoch = begin_epoch(stream, state, tonumber(stored[1]), stored[4], replid, true)
  return type(epoch) == 'table' and epoch or epoch .. '-0'
end

-- ARGV: as for an append, then the name of a source that keeps its entries, the cursor up to which it was read ('' for
-- none), the cursor after what is appended here, then for each entry seven arguments, as for fanfare_ingest. Appends and
-- moves the cursor, in one step. Returns nil, and appends nothing, if the cursor is another one.
local function feed(keys, args)
  local field = 'cursor:' .. args[3]
  if (redis.call('HGET', keys[2], field) or '') ~= args[4] then return false end
  local ids = append_from(6, 7, keys, args)
  if not ids.err then redis.call('HSET', keys[2], field, args[5]) end
  return ids
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

redis.register_function('fanfare_version', function() return { LIBRARY, FORMAT } end)
redis.register_function('fanfare_bounds', bounds)
redis.register_function('fanfare_append', append)
redis.register_function('fanfare_check', check)
redis.register_function('fanfare_hold', hold)
redis.register_function('fanfare_open', open)
redis.register_function('fanfare_lead', lead)
redis.register_function('fanfare_feed', feed)
redis.register_function('fanfare_ingest', ingest)
redis.register_function('fanfare_resign', resign)
