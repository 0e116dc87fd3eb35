# Runs the example for Rails with plain ActiveRecord: rails.rb EXAMPLE migrate|publish|rollback. `publish` prints the ids that it got.
require "active_record"

example, step = ARGV
ActiveRecord::Base.establish_connection(ENV.fetch("DATABASE_URL"))
require "#{example}/lib/fanfare"
require "#{example}/app/models/concerns/fanfare_events"
require "#{example}/app/models/order"

MIGRATIONS = ActiveRecord::MigrationContext.new("#{example}/db/migrate", ActiveRecord::SchemaMigration)
ActiveRecord::Migration.verbose = false

def migrate
  2.times { MIGRATIONS.migrate }
  ActiveRecord::Base.connection.create_table(:orders) do |table|
    table.string :shop
    table.string :state
  end
end

def publish
  rolled_back
  order = Order.create!(shop: "one", state: "new")
  Order.transaction do
    order.update!(state: "paid")
    order.save! # changes nothing
    Order.transaction(requires_new: true) do
      order.update!(state: "never")
      raise ActiveRecord::Rollback
    end
    puts Fanfare.publish(:mail, { order: order.id }, event: "receipt", id: "receipt-#{order.id}")
    puts Fanfare.publish("mail", "not again", id: "receipt-#{order.id}")
  end
  Order.cache { 2.times { puts Fanfare.publish("mail", "the same 'text'") } }
  refused
  Order.find(order.id).destroy!
end

def rolled_back
  Order.transaction do
    Order.create!(shop: "one", state: "never")
    Fanfare.publish("mail", "never")
    raise ActiveRecord::Rollback
  end
end

# What no node could deliver takes the record with it.
def refused
  Order.create!(shop: "x" * 2000, state: "never")
rescue ActiveRecord::StatementInvalid => error
  raise unless error.message.include?("longer than 1024 bytes") && Order.where(state: "never").none?
else
  raise "it was accepted"
end

def rollback
  MIGRATIONS.rollback
end

send(step)
