require "rails"
require "action_controller/railtie"
require "active_record/railtie"

module Orders
  class Application < Rails::Application
    config.load_defaults 6.1
    config.autoload_paths << "#{root}/lib"
    config.eager_load = false
    config.logger = ActiveSupport::Logger.new($stderr)
    config.log_level = :warn
  end
end

# Turbo asks for streams by this type. The gem turbo-rails, which Debian lacks, would register it.
Mime::Type.register "text/vnd.turbo-stream.html", :turbo_stream
