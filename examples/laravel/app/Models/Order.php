<?php

namespace App\Models;

use App\Fanfare;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Support\Facades\DB;

class Order extends Model
{
    public $timestamps = false;
    protected $fillable = ['user', 'item'];
    protected $visible = ['id', 'item'];

    protected static function booted()
    {
        static::created(function (Order $order) {
            // Not before: a page that refetches when the event comes must find the order.
            DB::afterCommit(fn () => Fanfare::publish(self::topic($order->user), $order));
        });
    }

    public static function topic(string $user): string
    {
        return "user-$user.orders";
    }
}
