class ApplicationController < ActionController::Base
  private

  def current_user
    session[:user]
  end

  # The cookie by which the browser shows Fanfare who it is.
  def set_fanfare_token
    token = Fanfare.token(current_user)
    cookies[:fanfare_token] = { value: token, httponly: true, same_site: :lax, secure: Rails.env.production? }
    token
  end
end
