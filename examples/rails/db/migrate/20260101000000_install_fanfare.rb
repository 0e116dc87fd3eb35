# Installs the bus: db/fanfare.sql is what `fanfare bus install --print` prints.
class InstallFanfare < ActiveRecord::Migration[6.1]
  # The file has a transaction of its own.
  disable_ddl_transaction!

  def up
    execute File.read(File.expand_path("../fanfare.sql", __dir__))
  end

  # All events that are kept go with it.
  def down
    execute "DROP SCHEMA fanfare CASCADE"
  end
end
