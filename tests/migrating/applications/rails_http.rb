# Runs the job and the model of docs/migrating.md (the file named first) as Rails would, with a queue in this process: commits one
# order, tells each retry, and ends with its standard input.
require "active_job"
require "active_record"

ActiveJob::Base.queue_adapter = :async
ActiveJob::Base.logger = Logger.new($stderr)
ActiveSupport::Notifications.subscribe("enqueue_retry.active_job") { $stdout.puts("retries").then { $stdout.flush } }
ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: ":memory:")
ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define { create_table(:orders) { |table| table.string :state } }

class ApplicationJob < ActiveJob::Base; end

class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true
end

load ARGV.fetch(0)
Order.create!(state: "paid")
$stdin.read
