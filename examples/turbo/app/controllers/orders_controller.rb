class OrdersController < ApplicationController
  before_action :require_user

  # The page; or for Turbo, after a gap, what the page shows.
  def index
    @topic = Order.topic(current_user)
    # First the position, then the orders: an order between the two comes as an event too, and Turbo shows it once.
    # Fanfare does not know the id "unknown", so it answers with a gap, and the page refetches.
    @position = Fanfare.position(@topic, set_fanfare_token) || "unknown"
    @orders = Order.where(user: current_user).order(:id)
  end

  # The answer has no order: it reaches all tabs of the user, this one too, through Fanfare.
  def create
    order = Order.new(params.permit(:item).merge(user: current_user))
    head order.save ? :no_content : :unprocessable_entity
  end

  private

  def require_user
    return if current_user

    respond_to do |format|
      format.html { render "sessions/new" }
      format.any { head :unauthorized }
    end
  end
end
