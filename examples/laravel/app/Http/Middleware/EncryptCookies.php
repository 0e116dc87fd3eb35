<?php

namespace App\Http\Middleware;

class EncryptCookies extends \Illuminate\Cookie\Middleware\EncryptCookies
{
    // Fanfare reads this one.
    protected $except = ['fanfare_token'];
}
