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
  local time = redis.call('TIME')
  epoch = math.max(epoch + 1, time[1] * 1000 + math.floor(time[2] / 1000))
  if epoch >= EXACT_MAX then
    return redis.error_reply('ERR the stream holds an id that is too large for another one: delete the key ' .. stream)
  end
  local text = string.format('%.0f', epoch)
  redis.call('XADD', stream, text .. '-0', 'fork', previous)
  redis.call('HSET', state, 'epoch', text, 'replid', replid, 'format', FORMAT)
  return text
end

-- ARGV: entries that the stream keeps, milliseconds for which a publisher's id is remembered, then for each entry its
-- topic ('' for a message to all nodes), data, publisher's id, event type, retry, node: '' for none. Returns an entry id
-- for each, with '=' in front if the publisher's id was there already.
local function append(keys, args)
  local stream, state = keys[1], keys[2]
  local epoch = current_epoch(stream, state)
  if type(epoch) == 'table' then return epoch end
  local ids = {}
  for i = 3, #args, 6 do
    local topic, data, own, event, retry, node = unpack(args, i, i + 5)
    local own_key = own ~= '' and stream .. ':id:' .. #topic .. ':' .. topic .. ':' .. own
    local known = own_key and redis.call('GET', own_key)
    if known then
      ids[#ids + 1] = '=' .. known
    else
      local fields = { 'd', data }
      for name, value in pairs({ t = topic, i = own, e = event, r = retry, n = node }) do
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

-- Returns the last entry's id, after a fork if one is due.
local function check(keys)
  local epoch = current_epoch(keys[1], keys[2])
  if type(epoch) == 'table' then return epoch end
  return last_id(keys[1])
end

redis.register_function('fanfare_append', append)
redis.register_function('fanfare_check', check)
