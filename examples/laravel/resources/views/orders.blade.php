<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Orders</title>
<link rel="icon" href="data:,">
<script type="module" src="/page.js"></script>
<body data-fanfare-url="{{ config('fanfare.url') }}" data-topic="{{ $topic }}" data-position="{{ $position }}"
      data-token-seconds="{{ config('fanfare.token_seconds') }}" data-refetches="0">
<h1>Orders of {{ $user }}</h1>
<ul id="orders">
@foreach ($orders as $order)
  <li data-order="{{ $order->id }}">{{ $order->item }}</li>
@endforeach
</ul>
<form id="order">
  @csrf
  <label>Item <input name="item" maxlength="200" required autofocus></label>
  <button>Order</button>
</form>
<p id="status">connecting</p>
</body>
</html>
