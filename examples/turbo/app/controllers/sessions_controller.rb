class SessionsController < ApplicationController
  # It changes only the caller's own cookie, and has to say 401 when the session has ended.
  skip_forgery_protection only: :renew

  def create
    return redirect_to root_path unless params[:user].to_s.match?(/\A[a-z0-9-]{1,32}\z/)

    reset_session
    session[:user] = params[:user]
    redirect_to root_path
  end

  # Pages ask for a fresh token when half of the old one's life is over.
  def renew
    return head :unauthorized unless current_user

    set_fanfare_token
    head :no_content
  end
end
