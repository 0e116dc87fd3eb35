ActiveRecord::Schema.define(version: 1) do
  create_table :orders do |t|
    t.string :user, null: false, index: true
    t.string :item, null: false
  end
end
