# Publishes through the bus of Fanfare in the application's own PostgreSQL.
module Fanfare
  PUBLISH = "SELECT fanfare.fanfare_publish($1, $2, event => $3, id => $4)".freeze

  # Publishes as part of the transaction that is open on this connection: subscribers get the event when it commits, and
  # nothing when it is rolled back. Returns the event's id. An `id` of the caller's own makes a repeated call a duplicate,
  # which returns the id of the first. What no node could deliver raises ActiveRecord::StatementInvalid.
  #
  # All other publishers wait until the transaction ends: publish last.
  def self.publish(topic, data, event: nil, id: nil, connection: ActiveRecord::Base.connection)
    data = data.to_json unless data.is_a?(String)
    # Not select_value: Rails would answer a repeated call from its query cache.
    connection.exec_query(PUBLISH, "Fanfare", [topic.to_s, data, event&.to_s, id&.to_s]).rows[0][0]
  end
end
