from django import forms

from .models import Order


class LoginForm(forms.Form):
    user = forms.RegexField(r"\A[a-z0-9-]{1,32}\Z", label="Name", strip=False)


class OrderForm(forms.ModelForm):
    class Meta:
        model = Order
        fields = ["item"]
