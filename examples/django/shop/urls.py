from django.urls import path

from . import views

urlpatterns = [
    path("", views.page, name="page"),
    path("login", views.login, name="login"),
    path("orders", views.orders, name="orders"),
    path("token", views.token, name="token"),
]
