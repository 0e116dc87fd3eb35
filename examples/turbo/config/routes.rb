Rails.application.routes.draw do
  root "orders#index"
  resources :orders, only: %i[index create]
  post "login", to: "sessions#create"
  post "token", to: "sessions#renew"
end
