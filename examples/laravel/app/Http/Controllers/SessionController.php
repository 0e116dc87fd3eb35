<?php

namespace App\Http\Controllers;

use App\Fanfare;
use Illuminate\Http\Request;

class SessionController
{
    public function login(Request $request)
    {
        $fields = $request->validate(['user' => ['required', 'regex:/\A[a-z0-9-]{1,32}\z/']]);
        $request->session()->regenerate();
        $request->session()->put($fields);

        return redirect('/');
    }

    /** Pages ask for a fresh token when half of the old one's life is over. */
    public function token(Request $request)
    {
        Fanfare::setToken($request->session()->get('user'));

        return response()->noContent();
    }
}
