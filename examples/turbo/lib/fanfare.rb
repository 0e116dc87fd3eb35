require "jwt"
require "net/http"

# All that this application asks of Fanfare, and the tokens by which its users may subscribe.
module Fanfare
  URL = URI(ENV.fetch("FANFARE_URL"))
  TOKEN_SECONDS = Integer(ENV.fetch("TOKEN_SECONDS", 600))

  class << self
    def token(user)
      now = Time.now.to_i
      claims = { sub: "user-#{user}", iat: now, exp: now + TOKEN_SECONDS, fanfare: { subscribe: ["user-#{user}.*"] } }
      JWT.encode(claims, ENV.fetch("FANFARE_JWT_SECRET"), "HS256")
    end

    # An order stays saved if it can't be published: pages get it with their next gap, or when they load.
    def publish(topic, data)
      request = Net::HTTP::Post.new("/publish", "Content-Type" => "application/json")
      body = ask(request, ENV.fetch("FANFARE_PUBLISH_TOKEN"), { topic: topic, data: data }.to_json)
      body && body["id"]
    end

    # The id of the newest event: what is read from the database afterwards contains all events up to it.
    def position(topic, token)
      body = ask(Net::HTTP::Get.new("/dashboard/data?#{{ topic: topic }.to_query}"), token)
      body && body["id"]
    end

    private

    # The answer's JSON; nil, and a line in the log, if there is none.
    def ask(request, token, body = nil)
      request["Authorization"] = "Bearer #{token}"
      answer = Net::HTTP.start(URL.host, URL.port, use_ssl: URL.scheme == "https", open_timeout: 2, read_timeout: 2) do |http|
        http.request(request, body)
      end
      answer.value # raises unless it is a 2xx
      JSON.parse(answer.body)
    rescue SystemCallError, IOError, Timeout::Error, Net::ProtocolError, JSON::ParserError => error
      Rails.logger.error("Fanfare: #{request.method} #{request.path}: #{error.message}")
      nil
    end
  end
end
