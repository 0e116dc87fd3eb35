# A model whose changes are events of its shop's topic.
class Order < ActiveRecord::Base
  include FanfareEvents
  publishes_to { |order| "orders/#{order.shop}" }

  def fanfare_data
    as_json(only: %i[id state])
  end
end
