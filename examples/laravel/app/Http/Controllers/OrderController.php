<?php

namespace App\Http\Controllers;

use App\Fanfare;
use App\Models\Order;
use Illuminate\Http\Request;

class OrderController
{
    public function page(Request $request)
    {
        $user = $request->session()->get('user');
        if ($user === null) {
            return view('login');
        }
        Fanfare::setToken($user);

        return view('orders', ['user' => $user, 'topic' => Order::topic($user)] + $this->state($user));
    }

    public function index(Request $request)
    {
        return $this->state($request->session()->get('user'));
    }

    /** The answer has no order: it reaches all tabs of the user, this one too, through Fanfare. */
    public function store(Request $request)
    {
        $fields = $request->validate(['item' => 'required|string|max:200']);
        Order::create($fields + ['user' => $request->session()->get('user')]);

        return response()->noContent();
    }

    /** First the position, then the orders: an order between the two comes as an event too, and the page shows it once. */
    private function state(string $user): array
    {
        $position = Fanfare::position($user, Order::topic($user));

        return ['position' => $position, 'orders' => Order::where('user', $user)->orderBy('id')->get()];
    }
}
