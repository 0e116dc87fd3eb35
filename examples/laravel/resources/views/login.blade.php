<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Orders</title>
<link rel="icon" href="data:,">
<h1>Orders</h1>
<form id="login" method="post" action="/login">
  @csrf
  <label>Your name <input name="user" pattern="[a-z0-9\-]{1,32}" required autofocus></label>
  <button>Log in</button>
</form>
</html>
