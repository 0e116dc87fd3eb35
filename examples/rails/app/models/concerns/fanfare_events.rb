# Publishes each change of a model in the transaction that makes the change.
#
#   class Order < ApplicationRecord
#     include FanfareEvents
#     publishes_to { |order| "orders/#{order.shop}" }
#   end
module FanfareEvents
  extend ActiveSupport::Concern

  class_methods do
    # The topic, or a block that returns a record's topic. The types of the events are created, updated and destroyed.
    def publishes_to(topic = nil, &block)
      define_method(:fanfare_topic) { block ? block.call(self) : topic }
      after_create { publish_event("created") }
      after_update { publish_event("updated") if saved_changes? }
      after_destroy { publish_event("destroyed") }
    end
  end

  # Publishes an event about this record. Returns its id.
  def publish_event(event, data = fanfare_data)
    Fanfare.publish(fanfare_topic, data, event: event, connection: self.class.connection)
  end

  # What subscribers get of this record: override it to choose.
  def fanfare_data
    as_json
  end
end
