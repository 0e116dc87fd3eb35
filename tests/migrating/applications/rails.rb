# Publishes as a Rails application does, with the gem redis: one message for each line of standard input.
require "json"
require "redis"

$redis = Redis.new(url: ENV.fetch("REDIS_URL"))
$stdin.each_line(chomp: true) do |line|
  $redis.publish("dashboard_updates", { from: "ruby", text: line, value: 1.5 }.to_json)
end
