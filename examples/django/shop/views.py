from functools import wraps

from django.conf import settings
from django.db import transaction
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from . import fanfare
from .forms import LoginForm, OrderForm
from .models import Order


def signed_in(view):
    """Passes the user's name on to the view."""

    @wraps(view)
    def checked(request):
        user = request.session.get("user")
        return view(request, user) if user else HttpResponse(status=401)

    return checked


def state(user):
    # The position comes first. An order that is saved in between is in the state and in the stream; else it might be in neither.
    position = fanfare.position(user)
    return {"position": position, "orders": [order.as_dict() for order in Order.objects.filter(user=user).order_by("id")]}


@require_GET
def page(request):
    user = request.session.get("user")
    if not user:
        return render(request, "shop/login.html", {"form": LoginForm()})
    context = {"user": user, "topic": fanfare.topic(user), "settings": settings} | state(user)
    response = render(request, "shop/page.html", context)
    fanfare.set_token(response, user)
    return response


@require_POST
def login(request):
    form = LoginForm(request.POST)
    if not form.is_valid():
        return render(request, "shop/login.html", {"form": form}, status=400)
    request.session.cycle_key()
    request.session["user"] = form.cleaned_data["user"]
    return redirect("page")


@require_http_methods(["GET", "POST"])
@signed_in
def orders(request, user):
    if request.method == "GET":
        return JsonResponse(state(user))
    form = OrderForm(request.POST, instance=Order(user=user))
    if not form.is_valid():
        return HttpResponseBadRequest(form.errors.as_json(), content_type="application/json")
    order = form.save()
    # After the commit: a page that refetches because of this event finds the order.
    transaction.on_commit(lambda: fanfare.publish(user, "order", order.as_dict()))
    return HttpResponse(status=204)


@require_POST
@signed_in
def token(request, user):
    response = HttpResponse(status=204)
    fanfare.set_token(response, user)
    return response
