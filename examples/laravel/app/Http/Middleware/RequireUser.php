<?php

namespace App\Http\Middleware;

use Closure;
use Illuminate\Http\Request;

class RequireUser
{
    public function handle(Request $request, Closure $next)
    {
        abort_unless($request->session()->has('user'), 401);

        return $next($request);
    }
}
