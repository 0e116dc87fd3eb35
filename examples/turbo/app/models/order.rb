class Order < ActiveRecord::Base
  validates :item, length: { in: 1..200 }

  # After the commit: a page that refetches because of this event finds the order.
  after_create_commit do
    stream = ApplicationController.render("orders/create", formats: :turbo_stream, assigns: { order: self })
    Fanfare.publish(Order.topic(user), stream)
  end

  def self.topic(user)
    "user-#{user}.orders"
  end
end
